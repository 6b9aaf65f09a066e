"""Which engine answers in the process of ``internvl35 serve``: ours, with adapters, or vLLM.

What adapters do to a network is left to :mod:`internvl35.train.adapters`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from internvl35.commands.batch import start_engine
from internvl35.commands.options import METAVAR
from internvl35.commands.serve_front import Front
from internvl35.commands.terminal import spinner
from internvl35.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from internvl35.chat import Chat
    from internvl35.generate.engines import GenerationEngine
    from internvl35.generate.vllm_engine import VLLMSettings
    from internvl35.model.composite import VisionLanguageModel
    from internvl35.serve.answering import Answerer

_Start: TypeAlias = "Callable[[Chat], AbstractContextManager[GenerationEngine]]"


@dataclass(frozen=True)
class EngineOptions:
    """Which engine answers."""

    engine: Literal["own", "vllm"] = "own"
    """What writes answers: the engine of this package, or vLLM (an extra), which brings the four
    options below."""
    parts_folder: str | None = field(default=None, metadata={METAVAR: "FOLDER"})
    """Where vLLM's two parts of the checkpoint are written, once; by default a temporary folder."""
    tensor_parallel: int = 1
    """GPUs over which vLLM spreads each layer."""
    pipeline_parallel: int = 1
    """Groups of GPUs over which vLLM spreads the layers."""
    quantization: str | None = None
    """How vLLM quantises the language model while it loads it, for example fp8; by default not at
    all."""
    adapter: tuple[str, ...] = field(default=(), metadata={METAVAR: "NAME=FOLDER"})
    """LoRA adapter that requests ask for by this name of a model; repeat it for more. Each has a
    cache of its own and shares all weights that it does not change."""

    def __post_init__(self) -> None:
        """Refuse options that do not go together."""
        names = [name for name, _ in self.adapters]
        if len(set(names)) < len(names):
            raise ConfigError("two adapters have the same name; give each its own")
        is_vllm = self.engine == "vllm"
        if self.adapter and is_vllm:
            raise ConfigError("adapter needs --engine own; merge the adapter for vLLM")
        for name in ("tensor_parallel", "pipeline_parallel"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: at least 1")
        of_vllm = self.parts_folder, self.tensor_parallel, self.pipeline_parallel, self.quantization
        if not is_vllm and of_vllm != (None, 1, 1, None):
            raise ConfigError(
                "parts_folder, tensor_parallel, pipeline_parallel and quantization need --engine "
                "vllm"
            )

    @property
    def adapters(self) -> list[tuple[str, Path]]:
        """Names and folders of the adapters."""
        return [_split(one) for one in self.adapter]

    def look(self, *, is_int8: bool) -> None:
        """Look for mistakes that only show when an engine is started.

        Args:
            is_int8: whether our own engine is to load linear layers in 8 bits.

        Raises:
            ConfigError: if vLLM is not installed, or does not load in 8 bits.
            CheckpointError: if an adapter cannot be read.
        """
        for _, folder in self.adapters:
            _read_config(folder)
        if self.engine == "own":
            return
        if is_int8:
            raise ConfigError("int8 is of our own engine; take it out, or --engine own")
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "engine is vllm, which is not installed; install internvl35[vllm] into an "
                "environment of its own, or --engine own"
            )

    def as_arguments(self) -> list[str]:
        """Say the same to another process."""
        told = [f"--adapter={one}" for one in self.adapter]
        if self.engine == "own":
            return told
        told += ["--engine", "vllm", "--tensor-parallel", str(self.tensor_parallel)]
        told += ["--pipeline-parallel", str(self.pipeline_parallel)]
        told += [f"--parts-folder={self.parts_folder}"] if self.parts_folder else []
        return told + ([f"--quantization={self.quantization}"] if self.quantization else [])

    def vllm(self, dtype: str, device: str) -> VLLMSettings:
        """Say how vLLM serves.

        Args:
            dtype: of the weights.
            device: where tiles are encoded.

        Returns:
            Its settings.
        """
        from internvl35.generate.vllm_engine import VLLMSettings

        return VLLMSettings(
            self.parts_folder, dtype, num_tensor_parallel=self.tensor_parallel,
            num_pipeline_parallel=self.pipeline_parallel, quantization=self.quantization,
            vision_device=device,
        )  # fmt: skip


def run_coupled(front: Front, engines: EngineOptions) -> None:
    """Answer in this process.

    Args:
        front: all other options.
        engines: which engine answers.
    """
    engines.look(is_int8=front.model.int8)
    if engines.engine == "vllm":
        _run_vllm(front, engines)
    elif engines.adapter:
        _run_adapted(front, engines.adapters)
    else:
        front.run(_warmed(start_engine), _import_answerer, str)


def _run_vllm(front: Front, engines: EngineOptions) -> None:
    @contextmanager
    def start(chat: Chat) -> Iterator[GenerationEngine]:
        import torch

        from internvl35.generate.vllm_engine import VLLMEngine
        from internvl35.serve.served_checkpoint import look_at

        folder = front.hub.find_folder(front.model.model)
        dtype = str(look_at(folder, front.model.dtype).dtype).removeprefix("torch.")
        device = front.model.device_map or ("cuda" if torch.cuda.is_available() else "cpu")
        with closing(VLLMEngine(folder, engines.vllm(dtype, device))) as engine:
            yield engine

    light = replace(front, model=replace(front.model, device_map="meta"))  # prompts alone
    light.run(_warmed(start), _import_answerer, str)


def _run_adapted(front: Front, adapters: list[tuple[str, Path]]) -> None:
    @contextmanager
    def start(chat: Chat) -> Iterator[GenerationEngine]:
        from internvl35.generate.engine import Engine
        from internvl35.generate.engine_thread import EngineThread
        from internvl35.serve.adapters import AdaptedEngines

        with ExitStack() as stack:
            plain = stack.enter_context(start_engine(chat))
            found = {}
            for name, folder in adapters:
                model = adapt(chat.model, folder)
                engine = EngineThread(Engine(model, chat.rules, tokenizer=chat.tokenizer))
                found[name] = stack.enter_context(closing(engine))
            yield AdaptedEngines(plain, found)

    def look(folder: Path) -> str:
        return f"{folder}, {len(adapters)} adapters"

    front.run(_warmed(start), _import_adapter_answerer, look)


def _warmed(start: _Start) -> _Start:
    """Let an engine answer a request of our own before others."""

    @contextmanager
    def start_warm(chat: Chat) -> Iterator[GenerationEngine]:
        from internvl35.generate.warm_up import warm_up

        with start(chat) as engine:
            with spinner("answering a first request"):
                for one in (engine, *getattr(engine, "adapters", {}).values()):
                    warm_up(one, chat.model.config, chat.rules.end_token_ids[0], has_vision=True)
            yield engine

    return start_warm


def adapt(model: VisionLanguageModel, folder: Path) -> VisionLanguageModel:
    """Put adapters into a copy of a network that shares its weights.

    Args:
        model: stays as it is.
        folder: of the adapters.

    Returns:
        The copy.

    Raises:
        CheckpointError: if they do not fit, or change the weights under them.
        ConfigError: if peft is not installed.
    """
    from internvl35.model.copies import copy_modules
    from internvl35.train.adapters import load_adapters

    beginning = str(_read_config(folder).init_lora_weights).lower()
    if beginning.startswith(("pissa", "olora")):
        raise CheckpointError(
            f"{folder}: adapters that began with {beginning} change the weights under them, which "
            "others share; merge them with internvl35 export and serve that checkpoint"
        )
    return load_adapters(copy_modules(model), folder)


def _read_config(folder: Path) -> Any:
    from internvl35.train.adapter_files import read_config
    from internvl35.train.packages import need_package

    need_package("peft", "an adapter")
    import peft

    return read_config(peft, folder)


def _split(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise ConfigError(f"adapter is {text!r}; needed: NAME=FOLDER")
    return name, Path(folder).expanduser()


def _import_answerer() -> type[Answerer]:
    from internvl35.serve.answering import Answerer

    return Answerer


def _import_adapter_answerer() -> type[Answerer]:
    from internvl35.serve.adapters import AdapterAnswerer

    return AdapterAnswerer
