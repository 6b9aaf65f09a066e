"""Small Flash networks with random weights whose router tells tiles apart."""

from __future__ import annotations

from typing import Any

import torch

from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig

TILE = 112
"""Side of a tile in pixels: 8 x 8 patches, and so 16 visual tokens, or 4 if it is compressed."""

FULL, SHORT = 16, 4


def make_flash_config(**fields: Any) -> InternVLChatConfig:
    """One layer in tower and language model; thresholds that let most choices come about."""
    return InternVLChatConfig(
        vision_config={
            "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 48, "image_size": [TILE, TILE], "patch_size": [14, 14],
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen3", "hidden_size": 48, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 24,
            "vocab_size": 640, "intermediate_size": 64, "tie_word_embeddings": False,
            "max_position_embeddings": 2048, "initializer_range": 0.2,
        },
        **{
            "image_token_id": 635, "flash_mode": True, "flash_relative_threshold": 0.3,
            "flash_absolute_threshold": 0.2, "router_num_heads": 4, "max_dynamic_patch": 6,
            **fields,
        },
    )  # fmt: skip


def make_flash_model(
    kind: type[VisionLanguageModel] = VisionLanguageModel, **fields: Any
) -> VisionLanguageModel:
    """Random weights, norms and biases too; those of the router vary more."""
    torch.manual_seed(3)
    model = kind(make_flash_config(**fields)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for parameter in model.router.parameters() if model.router else ():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model
