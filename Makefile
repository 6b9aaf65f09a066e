# The project's commands. Nothing but Python 3.11+ and make is needed; `make` alone lists them.
# Everything is installed into $(VENV) with the exact versions of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
DEMO_IMAGE ?= examples/shapes.png
DEMO_QUESTION ?= How many red circles are there?

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
BUILD_TOOLS := pip hatchling editables
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev

export PIP_CONSTRAINT := $(abspath constraints.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint bench-tiny clean

help:
	@echo "make demo   set up in $(VENV) and ask one question about a picture"
	@echo "make test   set up in $(VENV) and run lint, types and tests"
	@echo "make lint   lint and types alone"
	@echo "make bench-tiny  accuracy of the embedded checkpoint on fresh pictures"
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
	$(BIN)/python -m pytest

bench-tiny: $(INSTALLED)
	$(BIN)/python -m benchmarks.tiny

# A stamp is written only when its install has finished, so an interrupted set-up is taken up again;
# it is older than pyproject.toml or constraints.txt as soon as one of them changes.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is `$(PYTHON) --version`; 3.11 or newer is needed: make PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
		{ rm -rf $(VENV); echo "No venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): about 1.5 GB, a few minutes the first time"
	@$(PIP) install --quiet $(BUILD_TOOLS)
	@$(PIP) install --quiet --no-build-isolation --editable .
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "Adding development tools to $(VENV)"
	@$(PIP) install --quiet --no-build-isolation --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
