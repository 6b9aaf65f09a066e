"""Starts the work of a vision or a language server from a checkpoint, loading its part alone.

Requests are left to :mod:`internvl35.serve.vision` and :mod:`internvl35.serve.language`, listening
to :mod:`internvl35.serve.server_process`. Paper section 2.3, decoupled vision-language deployment.
"""

from __future__ import annotations

from typing import Any

import torch

from internvl35.chat import Chat
from internvl35.data.tokenizer import load_tokenizer
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.engines import GenerationEngine
from internvl35.model.composite import LanguagePart
from internvl35.model.parts import load_vision_part
from internvl35.serve.language.no_vision import NoVision
from internvl35.serve.language.service import LanguageService
from internvl35.serve.language.settings import LanguageServerSettings
from internvl35.serve.served_checkpoint import ServedCheckpoint
from internvl35.serve.vision.service import VisionService
from internvl35.serve.vision.settings import VisionServerSettings


def start_vision(
    served: ServedCheckpoint,
    settings: VisionServerSettings | None = None,
    *,
    device: str | None = None,
) -> VisionService:
    """Load tower, projectors and router, and begin to encode.

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
    return VisionService(model, settings, dtype=served.dtype)


def start_language(
    served: ServedCheckpoint,
    settings: LanguageServerSettings | None = None,
    *,
    device_map: Any = None,
    is_int8: bool = False,
) -> LanguageService:
    """Load the language model and begin to answer.

    Args:
        served: the checkpoint.
        settings: how much is taken on.
        device_map: where the layers go; None for all GPUs, or the CPU.
        is_int8: whether linear layers are loaded in 8 bits.

    Returns:
        The service, to be closed by the caller.

    Raises:
        CheckpointError: if the checkpoint cannot be read.
    """
    settings = settings or LanguageServerSettings()
    model = LanguagePart.from_pretrained(
        served.folder,
        dtype=served.dtype,
        device_map=device_map or ("auto" if torch.cuda.is_available() else None),
        load_in_8bit=is_int8,
    )
    chat = Chat(model, load_tokenizer(served.folder))
    limits = EngineSettings(
        max_prompt_tokens=chat.builder.settings.max_tokens,
        max_batch_tokens=settings.max_batch_tokens,
        max_sequences=settings.max_sequences,
        cache_gib=settings.cache_gib,
    )
    engine = Engine(
        model, chat.rules, tokenizer=chat.tokenizer, settings=limits, encoder=NoVision()
    )
    engines: dict[str | None, GenerationEngine] = {None: EngineThread(engine)}
    return LanguageService(engines, model.config, settings, dtype=served.dtype)
