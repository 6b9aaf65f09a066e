"""Places of compressed tiles: what is left of prompts and batches, counted one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.batches import Example, collate, collate_packed
from internvl35.data.compression import TileRouting, compress_batch, compress_prompt
from internvl35.data.token_writer import ImageSpan, Prompt

PLACE, PAD = 99, 0
FULL, SHORT = 8, 2

pictures = st.lists(st.lists(st.booleans(), min_size=1, max_size=5), max_size=4)
"""Choices for the tiles of each picture."""


def write(choices, seed=0):
    """A prompt with text of random length around its pictures, and what is to be left of it."""
    generator = torch.Generator().manual_seed(seed)

    def text():
        length = int(torch.randint(0, 4, (1,), generator=generator))
        ids = torch.randint(1, 90, (length + 1,), generator=generator).tolist()
        return ids, (torch.rand(length + 1, generator=generator) < 0.5).tolist()

    ids, loss, left, left_loss, spans, left_spans = [], [], [], [], [], []

    def say():
        words, marks = text()
        for tokens, masks in ((ids, loss), (left, left_loss)):
            tokens += words
            masks += marks

    say()
    for picture in choices:
        start, left_start = len(ids), len(left)
        for is_compressed in picture:
            ids += [PLACE] * FULL
            left += [PLACE] * (SHORT if is_compressed else FULL)
        loss += [False] * (len(ids) - len(loss))
        left_loss += [False] * (len(left) - len(left_loss))
        spans.append(ImageSpan(start, len(ids) - start, len(picture)))
        left_spans.append(ImageSpan(left_start, len(left) - left_start, len(picture)))
        say()
    return (
        Prompt(tuple(ids), tuple(spans), tuple(loss)),
        Prompt(tuple(left), tuple(left_spans), tuple(left_loss)),
    )


def compress(prompt, choices):
    flat = [choice for picture in choices for choice in picture]
    return compress_prompt(prompt, flat, tokens_per_tile=FULL, compressed_tokens=SHORT)


@given(choices=pictures, seed=st.integers(0, 1000))
def test_a_prompt_is_what_would_have_been_written_for_short_tiles(choices, seed):
    prompt, expected = write(choices, seed)
    assert compress(prompt, choices) == expected


def test_the_first_places_of_a_tile_are_kept_and_the_rest_dropped():
    # marks instead of equal ids show which of the eight places are left
    ids = (1, 2, *range(10, 18), *range(20, 28), *range(30, 38), 3)
    prompt = Prompt(ids, (ImageSpan(2, 16, 2), ImageSpan(18, 8, 1)), (False,) * len(ids))
    found = compress(prompt, [[True, False], [True]])
    assert found.token_ids == (1, 2, 10, 11, *range(20, 28), 30, 31, 3)
    assert found.image_spans == (ImageSpan(2, 10, 2), ImageSpan(12, 2, 1))


@pytest.mark.parametrize("choices", [[True], [True, False, True]])
def test_choices_and_tiles_that_differ_in_number_are_refused(choices):
    prompt, _ = write([[True, True]])
    with pytest.raises(ValueError, match=f"{len(choices)} choices for a prompt of 2 tiles"):
        compress(prompt, [choices])


def test_a_prompt_that_is_compressed_already_is_refused():
    prompt, short = write([[True, False]])
    assert short != prompt
    with pytest.raises(ValueError, match="10 places for 2 tiles; needed: 8 a tile"):
        compress(short, [[True, False]])


def examples_of(rows, seed):
    """Examples, and the same written short."""
    found = []
    for number, choices in enumerate(rows):
        num_tiles = sum(map(len, choices))
        tiles = torch.full((num_tiles, 3, 2, 2), float(number)) if num_tiles else None
        pair = write(choices, seed + number)
        found.append([Example(one.token_ids, one.loss_mask, tiles) for one in pair])
    return [long for long, _ in found], [short for _, short in found]


def compress_rows(batch, rows, is_compressed=None):
    flat = [choice for choices in rows for picture in choices for choice in picture]
    given = torch.tensor(flat, dtype=torch.bool) if is_compressed is None else is_compressed
    return compress_batch(batch, given, PLACE, FULL, SHORT, PAD)


def assert_same(found, expected):
    for name in ("input_ids", "attention_mask", "labels", "position_ids", "segments"):
        one, other = getattr(found, name), getattr(expected, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert torch.equal(one, other), name
            assert one.dtype == other.dtype, name


rows_of_pictures = st.lists(pictures, min_size=1, max_size=4)


@given(rows=rows_of_pictures, seed=st.integers(0, 1000))
def test_a_padded_batch_is_that_of_the_short_examples(rows, seed):
    long, short = examples_of(rows, seed)
    batch = collate(long, PAD)
    before = {name: getattr(batch, name).clone() for name in ("input_ids", "attention_mask")}
    found = compress_rows(batch, rows)
    assert_same(found, collate(short, PAD))
    assert found.pixel_values is batch.pixel_values
    assert all(torch.equal(getattr(batch, name), value) for name, value in before.items())


@given(rows=rows_of_pictures, seed=st.integers(0, 1000))
def test_a_pack_is_that_of_the_short_examples(rows, seed):
    long, short = examples_of(rows, seed)
    assert_same(compress_rows(collate_packed(long), rows), collate_packed(short))


def test_a_batch_of_texts_is_left_as_it_is():
    rows = [[], []]
    batch = collate(examples_of(rows, 0)[0], PAD)
    assert_same(compress_rows(batch, rows), batch)


def test_choices_for_other_tiles_than_those_of_a_batch_are_refused():
    rows = [[[True, False]]]
    long, short = examples_of(rows, 0)
    with pytest.raises(ValueError, match="3 choices for a batch of 2 tiles"):
        compress_rows(collate(long, PAD), rows, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="10 places for 2 tiles"):
        compress_rows(collate(short, PAD), rows)


def test_routings_count_their_compressed_tiles():
    assert TileRouting((True, False, True), (0.9, 0.1, 0.8)).num_compressed == 2
