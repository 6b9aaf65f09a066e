"""A released shape with random weights in a folder, so that every process can load the same."""

from __future__ import annotations

from pathlib import Path

import torch

from internvl35.config import PRESETS, TINY_FOLDER
from internvl35.data.prompt import PromptBuilder, PromptSettings
from internvl35.data.tokenizer import load_tokenizer, save_tokenizer
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import preset_config


def save_released(size: str, folder: Path) -> Path:
    """Write a model of a released shape with random weights.

    Its tokenizer is the embedded checkpoint's, which knows only the first of its ids.

    Args:
        size: name of the shape.
        folder: where it goes.

    Returns:
        The folder.
    """
    config = preset_config(PRESETS[size])
    tokenizer = load_tokenizer(TINY_FOLDER)
    builder = PromptBuilder(tokenizer, PromptSettings(template=config.template))
    config.image_token_id = builder.image_token_id
    torch.manual_seed(0)
    model = VisionLanguageModel(config).to(torch.bfloat16)
    model.save_pretrained(folder, layout="remote-code")
    save_tokenizer(tokenizer, folder)
    return folder
