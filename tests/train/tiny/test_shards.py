"""Drawn examples in files."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from internvl35.errors import DataError
from internvl35.train.tiny.examples import DrawnExamples
from internvl35.train.tiny.shards import ShardedExamples, ShardSet, render_shards


@pytest.fixture
def drawn(recipe, tokenizer, config):
    return DrawnExamples(recipe, "pretrain", tokenizer, config)


def _key(example):
    tiles = b"" if example.pixel_values is None else example.pixel_values.numpy().tobytes()
    return (tuple(example.token_ids), tiles)


def test_every_example_comes_back_once_a_round_as_it_was_drawn(drawn, tmp_path):
    shards = ShardSet(tmp_path / "shards", 3, 4)
    assert list(render_shards(shards, drawn, 2)) == [1, 2, 3]
    read = ShardedExamples(shards)
    expected = {_key(drawn[index]): drawn[index] for index in range(12)}
    for turn in range(2):
        found = [read[12 * turn + index] for index in range(12)]
        assert Counter(map(_key, found)) == Counter(expected.keys())
        for example in found:
            original = expected[_key(example)]
            assert list(example.loss_mask) == list(original.loss_mask)
            if original.patch_labels is not None:
                assert torch.equal(example.patch_labels, original.patch_labels)
    orders = [[_key(read[12 * turn + index]) for index in range(12)] for turn in range(2)]
    assert orders[0] != orders[1]


def test_what_an_interruption_left_out_is_rendered_later(drawn, tmp_path):
    shards = ShardSet(tmp_path, 3, 2)
    assert list(render_shards(shards, drawn, 1, keep_going=lambda: False)) == [1]
    kept = shards.path(0).stat().st_mtime_ns
    with pytest.raises(DataError, match="missing"):
        ShardedExamples(shards)
    assert list(render_shards(shards, drawn, 1))[-1] == 3
    assert shards.path(0).stat().st_mtime_ns == kept
    assert not list(tmp_path.glob("*.partial"))


def test_shards_of_another_version_are_refused(drawn, tmp_path, monkeypatch):
    shards = ShardSet(tmp_path, 1, 2)
    list(render_shards(shards, drawn, 1))
    monkeypatch.setattr("internvl35.train.tiny.shards.MARK_LABELS", ("glyph:A",))
    with pytest.raises(DataError, match="other labels"):
        ShardedExamples(shards)
