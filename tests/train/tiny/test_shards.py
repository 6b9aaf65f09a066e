"""Drawn examples in files."""

from __future__ import annotations

import dataclasses
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


def test_shards_of_other_drawings_are_refused(
    drawn, recipe, tokenizer, config, tmp_path, monkeypatch
):
    shards = ShardSet(tmp_path, 1, 2, drawn.settings)
    list(render_shards(shards, drawn, 1))
    ShardedExamples(shards)
    other = dataclasses.replace(recipe, listing_share=0.125)
    settings = DrawnExamples(other, "pretrain", tokenizer, config).settings
    assert settings == drawn.settings | {"listing_share": 0.125}
    with pytest.raises(DataError, match="other settings"):
        list(render_shards(ShardSet(tmp_path, 2, 2, settings), drawn, 1))
    monkeypatch.setattr("internvl35.train.tiny.shards.MARK_LABELS", ("glyph:A",))
    with pytest.raises(DataError, match="other labels"):
        ShardedExamples(shards)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, None])
def test_a_broken_shard_is_named(drawn, tmp_path, content):
    shards = ShardSet(tmp_path, 1, 2)
    list(render_shards(shards, drawn, 1))
    path = shards.path(0)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match=r"shard-00000.*cannot be read.*render again"):
        ShardedExamples(shards)


def test_what_a_killed_process_left_behind_is_removed(drawn, tmp_path):
    (tmp_path / "shard-00001.77.partial").write_bytes(b"half")
    list(render_shards(ShardSet(tmp_path, 2, 2), drawn, 1))
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".safetensors"] * 2
