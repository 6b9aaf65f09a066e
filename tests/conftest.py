"""What tests of several rooms share: a small checkpoint with random weights and a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from internvl35.data.templates import TEMPLATES
from internvl35.data.tokenizer import save_tokenizer, train_tokenizer
from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig


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
