"""Starts the work of a vision or a language server from a checkpoint, loading its part alone.

Requests are left to :mod:`internvl35.serve.vision` and :mod:`internvl35.serve.language`, listening
to :mod:`internvl35.serve.server_process`. Paper section 2.3, decoupled vision-language deployment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from internvl35.data.prompt import PromptBuilder, PromptSettings
from internvl35.data.tokenizer import load_tokenizer
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.rules import check_tokens, stop_rules
from internvl35.generate.warm_up import warm_up
from internvl35.model.composite import LanguagePart, VisionLanguageModel
from internvl35.model.parts import load_vision_part
from internvl35.serve.language.no_vision import NoVision
from internvl35.serve.language.service import LanguageService
from internvl35.serve.language.settings import LanguageServerSettings
from internvl35.serve.served_checkpoint import ServedCheckpoint
from internvl35.serve.vision.service import VisionService
from internvl35.serve.vision.settings import VisionServerSettings

if TYPE_CHECKING:
    from internvl35.generate.vllm_engine import VLLMSettings


def start_vision(
    served: ServedCheckpoint,
    settings: VisionServerSettings | None = None,
    *,
    device: str | None = None,
) -> VisionService:
    """Load tower, projectors and router, encode a tile of no request, and begin to encode.

    Args:
        served: the checkpoint.
        settings: how much is taken on.
        device: where tiles are encoded; None for the first GPU, or the CPU.

    Returns:
        The service, to be closed by the caller.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
    """
    model = load_vision_part(served.folder, dtype=served.dtype)
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    side = served.config.force_image_size
    with torch.inference_mode():  # a device's first kernels take seconds
        model.get_image_features(torch.zeros(1, 3, side, side, device=model.device))
    return VisionService(model, settings, dtype=served.dtype)


def start_language(
    served: ServedCheckpoint,
    settings: LanguageServerSettings | None = None,
    *,
    device_map: Any = None,
    is_int8: bool = False,
    adapt: Callable[[VisionLanguageModel], Mapping[str, VisionLanguageModel]] | None = None,
    vllm: VLLMSettings | None = None,
) -> LanguageService:
    """Load the language model, answer a request of our own, and begin to answer.

    Args:
        served: the checkpoint.
        settings: how much is taken on.
        device_map: where the layers go; None for all GPUs, or the CPU.
        is_int8: whether linear layers are loaded in 8 bits.
        adapt: makes networks with LoRA adapters, by name, of the one without; each gets an engine.
        vllm: how vLLM is started, which then writes the answers; None for our own engine. Places
            are its own choice.

    Returns:
        The service, to be closed by the caller.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
        ConfigError: if vLLM is asked for and not installed.
    """
    settings = settings or LanguageServerSettings()
    if vllm is not None:
        return _start_vllm(served, settings, vllm)
    model = LanguagePart.from_pretrained(
        served.folder,
        dtype=served.dtype,
        device_map=device_map or ("auto" if torch.cuda.is_available() else None),
        load_in_8bit=is_int8,
    )
    tokenizer = load_tokenizer(served.folder)
    builder = PromptBuilder(tokenizer, PromptSettings(template=model.config.template))
    check_tokens(model, builder)
    rules = stop_rules(tokenizer, builder)
    limits = EngineSettings(
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        cache_gib=settings.cache_gib,
    )
    models: dict[str | None, VisionLanguageModel] = {None: model}
    if adapt is not None:
        models.update(adapt(model))
    engines = {
        name: EngineThread(
            Engine(own, rules, tokenizer=tokenizer, settings=limits, encoder=NoVision())
        )
        for name, own in models.items()
    }
    for engine in engines.values():
        warm_up(engine, model.config, rules.end_token_ids[0], has_vision=False)
    return LanguageService(engines, model.config, settings, dtype=served.dtype)


def _start_vllm(
    served: ServedCheckpoint, settings: LanguageServerSettings, vllm: VLLMSettings
) -> LanguageService:
    from internvl35.generate.vllm_engine import VLLMEngine

    further: dict[str, Any] = {}
    if settings.max_batch_tokens is not None:
        further["max_num_batched_tokens"] = settings.max_batch_tokens
    if settings.cache_gib is not None:
        further["kv_cache_memory_bytes"] = int(settings.cache_gib * 2**30)
    own = replace(
        vllm,
        has_vision=False,
        dtype=str(served.dtype).removeprefix("torch."),
        max_sequences=settings.max_sequences,
        further=further | dict(vllm.further),
    )
    engine = VLLMEngine(served.folder, own)
    warm_up(engine, engine.config, engine.rules.end_token_ids[0], has_vision=False)
    return LanguageService({None: engine}, engine.config, settings, dtype=served.dtype)
