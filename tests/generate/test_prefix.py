"""Names of contents: equal for equal beginnings, different for everything else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.prompt import ImageSpan
from internvl35.generate.prefix import PrefixNames

PICTURES = (b"one", b"two", b"")


def name_all(ids, size, spans=(), digests=(), salt=""):
    names = PrefixNames(size, spans, digests, salt)
    names.extend(ids)
    return names.names


@st.composite
def sequences(draw):
    """A sequence of few tokens, at times with a picture, and a salt."""
    ids = draw(st.lists(st.integers(0, 2), min_size=1, max_size=12))
    spans, digests = [], []
    if draw(st.booleans()):
        start = draw(st.integers(0, len(ids) - 1))
        length = draw(st.integers(1, len(ids) - start))
        ids[start : start + length] = [9] * length
        spans, digests = [ImageSpan(start, length, 1)], [draw(st.sampled_from(PICTURES))]
    return ids, spans, digests, draw(st.sampled_from(["", "a"]))


def describe(sequence, stop):
    """What a name has to tell apart: tokens, and which place of which picture."""
    ids, spans, digests, salt = sequence
    seen = [(token, None, None) for token in ids]
    for span, digest in zip(spans, digests, strict=True):
        for offset in range(span.num_tokens):
            seen[span.start + offset] = (9, digest, offset)
    return salt, tuple(seen[:stop])


@given(sequences(), sequences(), st.integers(1, 4))
def test_names_are_equal_exactly_where_contents_are(one, two, size):
    names = [name_all(ids, size, spans, digests, salt) for ids, spans, digests, salt in (one, two)]
    for number, (first, second) in enumerate(zip(*names, strict=False)):
        stop = (number + 1) * size
        assert (first == second) == (describe(one, stop) == describe(two, stop))


@given(st.lists(st.integers(0, 300_000), max_size=40), st.lists(st.integers(1, 9), max_size=9))
def test_a_growing_sequence_gets_the_names_of_the_whole(ids, steps):
    names, done = PrefixNames(4, (), (), "x"), 0
    for step in steps:
        done = min(len(ids), done + step)
        names.extend(ids[:done])
        assert len(names.names) == done // 4
    names.extend(ids)
    assert names.names == name_all(ids, 4, salt="x")


@given(sequences(), sequences(), st.integers(1, 4))
def test_names_by_visual_token_are_equal_exactly_where_contents_are(one, two, size):
    names = [name_by_token(sequence, size) for sequence in (one, two)]
    for number, (first, second) in enumerate(zip(*names, strict=False)):
        stop = (number + 1) * size
        assert (first == second) == (describe(one, stop) == describe(two, stop))


def name_by_token(sequence, size):
    """Names while the visual tokens arrive one by one; none covers a token that is missing."""
    ids, spans, digests, salt = sequence
    shown = [
        (span.start + offset, b"%s%d" % (digest, offset))
        for span, digest in zip(spans, digests, strict=True)
        for offset in range(span.num_tokens)
    ]
    arrived: list[bytes] = []
    names = PrefixNames(size, spans, arrived, salt, is_by_token=True)
    for place, digest in shown:
        names.extend(ids)
        assert len(names.names) == place // size
        arrived.append(digest)
    names.extend(ids)
    return names.names


def test_pictures_that_touch_a_block_only_in_part_count():
    ids = [1, 2, 9, 9, 9, 9, 3, 4]
    span = [ImageSpan(2, 4, 1)]
    one, two = name_all(ids, 4, span, [b"a"]), name_all(ids, 4, span, [b"b"])
    assert one[0] != two[0]
    assert one[1] != two[1]
