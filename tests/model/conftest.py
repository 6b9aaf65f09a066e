"""Networks of the released shapes, shrunk until a test of them takes no time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig

FAMILIES = ("qwen3", "qwen3_moe", "gpt_oss")
TOWERS = ("300M", "6B")
IMAGE_TOKEN = 300


def make_config(
    family: str = "qwen3", tower: str = "300M", *, is_tied: bool = False
) -> InternVLChatConfig:
    vision = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 96, "image_size": [56, 56], "patch_size": [14, 14],
        "norm_type": "layer_norm", "attention_bias": True, "use_qk_norm": False,
    }  # fmt: skip
    if tower == "6B":
        vision |= {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True}
    text = {
        "model_type": family, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320, "intermediate_size": 96,
        "tie_word_embeddings": is_tied,
    }  # fmt: skip
    if family == "qwen3_moe":
        text |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    if family == "gpt_oss":
        text |= {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
    return InternVLChatConfig(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)


def make_model(config: InternVLChatConfig) -> VisionLanguageModel:
    torch.manual_seed(0)
    model = VisionLanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases start out as ones and zeros
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture
def build_config() -> Callable[..., InternVLChatConfig]:
    return make_config


@pytest.fixture
def build_model() -> Callable[..., VisionLanguageModel]:
    def build(family: str = "qwen3", tower: str = "300M", *, is_tied: bool = False):
        return make_model(make_config(family, tower, is_tied=is_tied))

    return build


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.tensor([[1, 2, *[IMAGE_TOKEN] * 4, 5, 6, 7, 8]]),
        "pixel_values": torch.randn(1, 3, 56, 56, generator=generator),
    }
