"""What tests of several rooms share: small networks of the released shapes with random weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import save_tokenizer, train_tokenizer
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")

IMAGE_TOKEN = 300


@pytest.fixture(autouse=True)
def hub_of_no_other_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelScope's client keeps for the whole process which hub its first user meant."""
    config = sys.modules.get("modelscope_hub.config")
    if hasattr(config, "_default_config"):
        monkeypatch.setattr(config, "_default_config", None)


def make_config(
    family: str = "qwen3",
    tower: str = "300M",
    *,
    is_tied: bool = False,
    vision: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    **fields: Any,
) -> InternVLChatConfig:
    """A tile has 56 x 56 pixels, 4 x 4 patches and so 4 visual tokens; the vocabulary 320 rows."""
    vision_fields = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "intermediate_size": 96, "image_size": [56, 56], "patch_size": [14, 14],
        "norm_type": "layer_norm", "attention_bias": True, "use_qk_norm": False,
    }  # fmt: skip
    if tower == "6B":
        vision_fields |= {"norm_type": "rms_norm", "attention_bias": False, "use_qk_norm": True}
    text_fields = {
        "model_type": family, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 320, "intermediate_size": 96,
        "tie_word_embeddings": is_tied,
    }  # fmt: skip
    if family == "qwen3_moe":
        text_fields |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    if family == "gpt_oss":
        text_fields |= {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8}
    return InternVLChatConfig(
        vision_config=vision_fields | dict(vision or {}),
        text_config=text_fields | dict(text or {}),
        **{"image_token_id": IMAGE_TOKEN, **fields},
    )


def make_model(config: InternVLChatConfig) -> VisionLanguageModel:
    """Random weights, norms and biases too: fresh ones are ones and zeros, which hide mistakes."""
    torch.manual_seed(0)
    model = VisionLanguageModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session")
def build_config() -> Callable[..., InternVLChatConfig]:
    return make_config


@pytest.fixture(scope="session")
def build_model() -> Callable[..., VisionLanguageModel]:
    def build(family: str = "qwen3", tower: str = "300M", **options: Any) -> VisionLanguageModel:
        return make_model(make_config(family, tower, **options))

    return build


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """One sequence with one tile."""
    generator = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.tensor([[1, 2, *[IMAGE_TOKEN] * 4, 5, 6, 7, 8]]),
        "pixel_values": torch.randn(1, 3, 56, 56, generator=generator),
    }


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of the remote-code layout: tiles of 56 pixels, 4 visual tokens each."""
    texts = [template.default_system_prompt for template in TEMPLATES.values()]
    texts += ["Describe the two images in detail, shortly. Hello, who are you? user assistant"]
    tokenizer = train_tokenizer(texts * 20, 640)
    config = InternVLChatConfig(
        vision_config={
            "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 96, "image_size": [56, 56], "patch_size": [14, 14],
            "attention_bias": True,
        },
        text_config={
            "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
            "vocab_size": 640, "intermediate_size": 96, "tie_word_embeddings": False,
            "max_position_embeddings": 2048, "initializer_range": 0.2,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        max_dynamic_patch=6,
    )  # fmt: skip
    torch.manual_seed(7)
    folder = tmp_path_factory.mktemp("random") / "checkpoint"
    VisionLanguageModel(config).save_pretrained(folder, layout="remote-code")
    save_tokenizer(tokenizer, folder)
    return folder
