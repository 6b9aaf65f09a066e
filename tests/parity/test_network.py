"""Our network against transformers' InternVL: same weights, same numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from internvl35.model.composite import VisionLanguageModel
from internvl35.model.configuration import Layout
from internvl35.model.projector import merge_patches

Pair = tuple[VisionLanguageModel, InternVLForConditionalGeneration]
PairBuilder = Callable[[str, str], Pair]
BatchMaker = Callable[..., dict[str, Tensor]]

NETWORKS = [
    (family, tower) for family in ("qwen3", "qwen3_moe", "gpt_oss") for tower in ("300M", "6B")
]
# tiles of each picture of each row
SCENES = {
    "text alone": [[]],
    "one tile": [[1]],
    "twelve tiles and a thumbnail": [[13]],
    "several pictures": [[1, 3, 2]],
    "a video of 24 frames": [[1] * 24],
    "a padded batch": [[3], [], [1, 2], [1]],
}

every_network = pytest.mark.parametrize(("family", "tower"), NETWORKS)


def assert_same_where_seen(found: Tensor, expected: Tensor, mask: Tensor) -> None:
    """Compare logits, but for those of padding, which mean nothing."""
    seen = mask.bool()
    assert expected[seen].std() > 0.1  # else equal numbers say little
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-5)


@every_network
def test_logits_are_equal(
    pair: PairBuilder, make_batch: BatchMaker, family: str, tower: str
) -> None:
    ours, stock = pair(family, tower)
    for rows in SCENES.values():
        batch = make_batch(rows)
        with torch.no_grad():
            found, expected = ours(**batch).logits, stock(**batch).logits
        assert_same_where_seen(found, expected, batch["attention_mask"])


@every_network
def test_pictures_matter_to_the_logits(
    pair: PairBuilder, make_batch: BatchMaker, family: str, tower: str
) -> None:
    ours, _ = pair(family, tower)
    batch = make_batch([[2]])
    with torch.no_grad():
        seen = ours(**batch).logits[0, -1]
        batch["pixel_values"] = batch["pixel_values"].flip(0)
        swapped = ours(**batch).logits[0, -1]
    assert (seen - swapped).abs().max() > 1e-3


@every_network
def test_greedy_tokens_are_equal(
    pair: PairBuilder, make_batch: BatchMaker, family: str, tower: str
) -> None:
    for rows in SCENES.values():
        batch = make_batch(rows)
        found, expected = (
            model.generate(**batch, max_new_tokens=6, do_sample=False, pad_token_id=0)
            for model in pair(family, tower)
        )
        assert found.tolist() == expected.tolist()


@every_network
def test_visual_tokens_are_equal(
    pair: PairBuilder, make_batch: BatchMaker, family: str, tower: str
) -> None:
    ours, stock = pair(family, tower)
    pixels = make_batch([[5]])["pixel_values"]
    with torch.no_grad():
        found = ours.get_image_features(pixels)
        expected = stock.get_image_features(pixels).pooler_output
    assert found.shape == (5, 4, 64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_loss_and_all_gradients_are_equal(
    pair: PairBuilder, make_batch: BatchMaker, rename: Callable[[str], str], family: str
) -> None:
    ours, stock = (copy.deepcopy(model) for model in pair(family, "6B"))
    batch = make_batch([[3], [], [1, 2], [1]])
    labels = batch["input_ids"].masked_fill(batch["input_ids"] >= 300, -100)
    labels = labels.masked_fill(batch["attention_mask"] == 0, -100)
    losses = [model(**batch, labels=labels).loss for model in (ours, stock)]
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-5)
    for loss in losses:
        loss.backward()
    expected = dict(stock.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, expected[rename(name)].grad, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_given_positions_and_masks_mean_the_same(
    pair: PairBuilder, make_batch: BatchMaker, family: str
) -> None:
    batch = make_batch([[3], [], [1, 2]])
    batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0) * 3
    batch["attention_mask"][:, -3] = 0  # a hole, too
    ours, stock = pair(family, "300M")
    with torch.no_grad():
        found, expected = ours(**batch).logits, stock(**batch).logits
        plain = ours(**{key: batch[key] for key in ("input_ids", "pixel_values")}).logits
    assert_same_where_seen(found, expected, batch["attention_mask"])
    assert (found[:, -1] - plain[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_a_padded_row_answers_as_if_alone(
    pair: PairBuilder, make_batch: BatchMaker, family: str
) -> None:
    ours, stock = pair(family, "6B")
    batch = make_batch([[3], [], [1, 2], [1]])
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    together = ours.generate(**batch, **settings)[:, batch["input_ids"].shape[1] :]
    tiles = batch["pixel_values"].split([3, 0, 3, 1])
    for row, pixels in enumerate(tiles):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()][None]
        alone = {"input_ids": ids} | ({"pixel_values": pixels} if len(pixels) else {})
        tokens = stock.generate(**alone, **settings)[0, ids.shape[1] :]
        assert together[row].tolist() == tokens.tolist()


def test_later_tokens_never_reach_earlier_ones(pair: PairBuilder, make_batch: BatchMaker) -> None:
    ours, _ = pair("qwen3", "300M")
    batch = make_batch([[2, 1]])
    changed = {key: value.clone() for key, value in batch.items()}
    changed["pixel_values"][2] = 0  # the second picture
    second = int((batch["input_ids"][0] == 301).nonzero()[1])
    with torch.no_grad():
        before, after = ours(**batch).logits[0], ours(**changed).logits[0]
    assert torch.equal(before[: second + 1], after[: second + 1])
    assert not torch.equal(before[second + 1], after[second + 1])


@pytest.mark.parametrize("layout", ["hf", "remote-code"])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_files_on_the_way_change_nothing(
    tmp_path: Path, pair: PairBuilder, make_batch: BatchMaker, family: str, layout: Layout
) -> None:
    ours, stock = pair(family, "6B")
    batch = make_batch([[3], [], [1, 2], [1]])
    ours.save_pretrained(tmp_path / "ours", layout=layout)
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "ours")
    loaded.save_pretrained(tmp_path / "stock", layout="hf")
    reloaded = InternVLForConditionalGeneration.from_pretrained(tmp_path / "stock").eval()
    with torch.no_grad():
        expected = stock(**batch).logits
        for model in (loaded, reloaded):
            assert_same_where_seen(model(**batch).logits, expected, batch["attention_mask"])


def test_a_checkpoint_that_stock_transformers_writes_is_read(
    tmp_path: Path, pair: PairBuilder, make_batch: BatchMaker
) -> None:
    for family, tower in NETWORKS:
        _, stock = pair(family, tower)
        stock.save_pretrained(tmp_path / family / tower)
        ours = VisionLanguageModel.from_pretrained(tmp_path / family / tower)
        batch = make_batch([[3], [1]])
        with torch.no_grad():
            found, expected = ours(**batch).logits, stock(**batch).logits
        assert_same_where_seen(found, expected, batch["attention_mask"])


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("grid", [4, 8, 32])
def test_patches_are_merged_as_stock_transformers_does(
    pair: PairBuilder, factor: int, grid: int
) -> None:
    _, stock = pair("qwen3", "300M")
    features = torch.randn(2, grid, grid, 6)
    expected = stock.model.pixel_shuffle(features, scale_factor=1 / factor)
    assert torch.equal(merge_patches(features, factor), expected)
