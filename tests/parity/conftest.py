"""Pairs of one network: ours and stock transformers' with the same weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration

from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import InternVLChatConfig

IMAGE_START, IMAGE_END, PADDING = 301, 302, 0
TOKENS_PER_TILE = 4

Pair = tuple[VisionLanguageModel, InternVLForConditionalGeneration]
Rows = Sequence[Sequence[int]]


def stock_config(config: InternVLChatConfig) -> InternVLConfig:
    return InternVLConfig(
        vision_config=config.vision_config.to_dict(),
        text_config=config.text_config.to_dict(),
        image_token_id=config.image_token_id,
        image_seq_length=config.tokens_per_tile,
        downsample_ratio=config.downsample_ratio,
        tie_word_embeddings=config.tie_word_embeddings,
    )


def stock_name(name: str) -> str:
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.")


@pytest.fixture(scope="session")
def rename() -> Callable[[str], str]:
    """What stock transformers calls a weight in memory."""
    return stock_name


@pytest.fixture(scope="session")
def pair(build_model: Callable[..., VisionLanguageModel]) -> Callable[[str, str], Pair]:
    """Weights go from network to network in memory, past everything that reads and writes files."""

    @cache
    def build(family: str, tower: str) -> Pair:
        ours = build_model(family, tower)
        stock = InternVLForConditionalGeneration(copy.deepcopy(stock_config(ours.config))).eval()
        weights = {stock_name(name): tensor for name, tensor in ours.state_dict().items()}
        stock.load_state_dict(weights, strict=True)
        return ours, stock

    return build


@pytest.fixture(scope="session")
def make_batch() -> Callable[[Rows], dict[str, Tensor]]:
    """From the tiles of each picture of each row to a left-padded batch of network inputs."""

    def make(rows: Rows) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(len(rows))

        def words(count: int) -> list[int]:
            return torch.randint(1, 290, (count,), generator=generator).tolist()

        sequences = []
        for row, pictures in enumerate(rows):
            ids = words(3 + row)
            for num_tiles in pictures:
                places = [300] * (num_tiles * TOKENS_PER_TILE)
                ids += [IMAGE_START, *places, IMAGE_END, *words(2)]
            sequences.append(ids + words(4 + 2 * row))
        longest = max(map(len, sequences))
        num_tiles = sum(map(sum, rows))
        pixels = torch.randn(num_tiles, 3, 56, 56, generator=generator)
        batch = {
            "input_ids": torch.tensor(
                [[PADDING] * (longest - len(ids)) + ids for ids in sequences]
            ),
            "attention_mask": torch.tensor(
                [[0] * (longest - len(ids)) + [1] * len(ids) for ids in sequences]
            ),
        }
        return batch | ({"pixel_values": pixels} if num_tiles else {})

    return make
