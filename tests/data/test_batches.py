"""Padding, grouping and dense labels of training batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl35.config import TileSettings
from internvl35.data.batches import IGNORED, Example, collate, collate_packed, group_by_tiles
from internvl35.data.synthetic import MARK_LABELS, Mark
from internvl35.data.synthetic.patch_labels import label_patches

TILES = TileSettings(tile_size=112, max_tiles=4)


def _example(num_tokens: int, num_tiles: int = 0) -> Example:
    pixels = torch.zeros(num_tiles, 3, 2, 2) if num_tiles else None
    return Example(list(range(1, num_tokens + 1)), [True] * num_tokens, pixels)


def test_batches_are_padded_on_the_right_and_padding_carries_no_loss():
    batch = collate([Example([5, 6, 7], [False, True, True]), Example([8], [True])], pad_token_id=9)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.labels.tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch.pixel_values is None
    assert len(batch) == 2


def test_tiles_of_a_batch_stay_in_the_order_of_its_examples():
    one = Example([1], [True], torch.full((2, 3, 1, 1), 1.0))
    other = Example([1], [True], torch.full((1, 3, 1, 1), 2.0))
    batch = collate([one, _example(1), other], pad_token_id=0)
    assert batch.pixel_values is not None
    assert batch.pixel_values[:, 0, 0, 0].tolist() == [1.0, 1.0, 2.0]


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 tokens but 1 loss marks"):
        collate([Example([1, 2], [True])], pad_token_id=0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(1, 12), st.integers(1, 8))
def test_grouping_loses_no_example_and_keeps_its_limits(sizes, max_tiles, max_examples):
    examples = [_example(3, size) for size in sizes]
    groups = group_by_tiles(examples, max_tiles=max_tiles, max_examples=max_examples)
    assert sorted(id(e) for group in groups for e in group) == sorted(map(id, examples))
    for group in groups:
        assert len(group) <= max_examples
        assert sum(e.num_tiles for e in group) <= max_tiles or len(group) == 1


def test_a_mark_labels_the_patches_it_covers():
    mark = Mark("glyph:A", (14.0, 28.0, 42.0, 42.0))
    labels = label_patches([mark], 112, 112, TILES, patch_size=14)
    assert labels.shape == (1, 8, 8, len(MARK_LABELS))
    found = labels[0, :, :, MARK_LABELS.index("glyph:A")].nonzero().tolist()
    assert found == [[2, 1], [2, 2]]
    assert int(labels.sum()) == 2


def test_in_a_wide_picture_tiles_and_thumbnail_are_labelled_each_in_its_own_scale():
    mark = Mark("shape:star", (112.0, 0.0, 140.0, 28.0))  # first patches of the right-hand tile
    labels = label_patches([mark], 224, 112, TILES, patch_size=14)[
        ..., MARK_LABELS.index("shape:star")
    ]
    assert labels.shape == (3, 8, 8)
    assert labels[0].sum() == 0
    assert labels[1].nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert labels[2].nonzero().tolist() == [[0, 4], [1, 4]]


def test_a_mark_smaller_than_a_patch_is_still_found():
    labels = label_patches([Mark("colour:red", (3.0, 3.0, 6.0, 6.0))], 112, 112, TILES, 14)
    assert labels[0, 0, 0, MARK_LABELS.index("colour:red")] == 1
    assert int(labels.sum()) == 1


def test_a_pack_holds_the_same_tokens_labels_and_tiles_as_rows_of_their_own():
    examples = [
        Example([5, 6, 7], [True, False, True], torch.ones(2, 3, 4, 4)),
        Example([8, 9], [False, True]),
        Example([1, 2, 3, 4], [True] * 4, torch.zeros(1, 3, 4, 4)),
    ]
    pack = collate_packed(examples)
    assert pack.segments.tolist() == [0, 3, 5, 9]
    assert pack.position_ids.tolist() == [[0, 1, 2, 0, 1, 0, 1, 2, 3]]
    assert pack.input_ids.tolist() == [[5, 6, 7, 8, 9, 1, 2, 3, 4]]
    assert pack.labels.tolist() == [[IGNORED, IGNORED, 7, IGNORED, 9, IGNORED, 2, 3, 4]]
    assert (len(pack), pack.num_tokens, pack.num_tiles) == (3, 9, 3)
    rows = collate(examples, 0)
    assert (len(rows), rows.num_tokens, rows.num_tiles) == (3, 9, 3)
    torch.testing.assert_close(pack.pixel_values, rows.pixel_values)


@pytest.mark.parametrize("examples", [[], [Example([], [])]])
def test_nothing_cannot_be_packed(examples):
    with pytest.raises(ValueError, match="at least one example"):
        collate_packed(examples)


def test_a_batch_moves_as_a_whole():
    batch = collate_packed([Example([5, 6], [False, True], torch.ones(1, 3, 4, 4))])
    moved = batch.to(torch.device("meta"))
    kinds = {moved.input_ids.device, moved.segments.device, moved.pixel_values.device}
    assert kinds == {torch.device("meta")}
    assert moved.patch_labels is None
