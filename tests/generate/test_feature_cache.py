"""The feature cache: digests tell contents apart, and what is kept never exceeds its bytes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl35.errors import ConfigError
from internvl35.generate.digests import digest_picture, digest_tensor, is_finite
from internvl35.generate.feature_cache import FeatureCache, FeatureKey
from internvl35.generate.flash import FlashSettings
from internvl35.generate.routing import RoutedTiles

DTYPES = {"float32": np.float32, "float64": np.float64, "int32": np.int32, "uint8": np.uint8}


def key(name, salt="", policy="off"):
    return FeatureKey((name.encode(),), FlashSettings(policy), salt)


def tiles(num_floats, fill=0.0):
    return RoutedTiles(torch.full((num_floats, 1), fill), (False,))


# Digests ------------------------------------------------------------------------------------------

arrays = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 2, shape).astype(DTYPES[dtype])
    ),
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 3),
)


@given(arrays, arrays)
def test_digests_are_equal_just_where_dtype_shape_and_bytes_are(one, other):
    def content(array):
        return array.dtype.name, array.shape, array.tobytes()

    same = digest_tensor(torch.from_numpy(one)) == digest_tensor(torch.from_numpy(other))
    assert same == (content(one) == content(other))


def test_a_digest_is_blake2b_over_a_head_and_the_bytes():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    expected = hashlib.blake2b(b"torch.float32 (2, 3)\n" + values.tobytes(), digest_size=32)
    assert digest_tensor(torch.from_numpy(values)) == expected.digest()


def test_a_digest_sees_a_single_bit_and_not_how_a_tensor_lies_in_memory():
    values = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    assert digest_tensor(values.T.contiguous().T) == digest_tensor(values)
    changed = values.clone()
    changed.view(torch.int32)[2, 4] ^= 1
    assert digest_tensor(changed) != digest_tensor(values)
    short = values.bfloat16()
    assert digest_tensor(short) == digest_tensor(short.clone())
    assert digest_tensor(short) != digest_tensor(short.float())


pictures = st.lists(st.tuples(st.sampled_from([b"a" * 32, b"b" * 32]), st.booleans()), max_size=4)


@given(pictures, pictures)
def test_pictures_have_equal_digests_just_where_tiles_and_choices_are_equal(one, other):
    def digest(picture):
        return digest_picture([tile for tile, _ in picture], [choice for _, choice in picture])

    assert (digest(one) == digest(other)) == (one == other)


def test_choices_cannot_be_taken_for_a_tile():
    # the same bytes behind one another, cut at different places
    assert digest_picture([b"\0" * 32], [False] * 33) != digest_picture([b"\0" * 32] * 2, [False])


# Cache --------------------------------------------------------------------------------------------

operations = st.lists(
    st.one_of(
        st.tuples(st.just("keep"), st.sampled_from("abcdefg"), st.integers(1, 4)),
        st.tuples(st.just("find"), st.sampled_from("abcdefg"), st.just(0)),
        st.tuples(st.just("clear"), st.just("a"), st.just(0)),
    ),
    min_size=8,
    max_size=30,
)


@given(room=st.integers(0, 8), operations=operations)
def test_what_is_kept_is_what_a_list_of_the_last_used_keeps_and_never_too_much(room, operations):
    cache, expected = FeatureCache(4 * room), []  # names and sizes, used last at the end
    for operation, name, size in operations:
        known = dict(expected)
        rest = [pair for pair in expected if pair[0] != name]
        if operation == "clear":
            cache.clear()
            expected = []
        elif operation == "find":
            found = cache.find(key(name))
            assert (None if found is None else len(found.features)) == known.get(name)
            expected = [*rest, (name, known[name])] if name in known else expected
        else:
            cache.keep(key(name), tiles(size))
            expected = rest
            if size <= room:
                while sum(n for _, n in expected) + size > room:
                    expected.pop(0)
                expected.append((name, size))
        assert [n in dict(expected) for n in "abcdefg"] == [key(n) in cache for n in "abcdefg"]
        assert len(cache) == len(expected)
        assert cache.num_bytes == 4 * sum(n for _, n in expected) <= cache.max_bytes


def test_what_was_used_last_stays():
    cache = FeatureCache(4 * 3)
    for name in "abc":
        cache.keep(key(name), tiles(1))
    cache.find(key("a"))
    cache.keep(key("d"), tiles(1))
    assert [key(name) in cache for name in "abcd"] == [True, False, True, True]


def test_a_part_of_a_batch_does_not_hold_the_batch():
    batch = torch.randn(10, 4, 3)
    kept = FeatureCache(1000).keep(key("a"), RoutedTiles(batch[3], (False,)))
    assert torch.equal(kept.features, batch[3])
    assert kept.features.untyped_storage().nbytes() == 4 * 3 * 4


def test_what_is_whole_is_not_copied():
    whole = tiles(5)
    assert FeatureCache(1000).keep(key("a"), whole) is whole


def test_what_does_not_fit_is_handed_back_and_drives_nothing_out():
    cache = FeatureCache(20)
    cache.keep(key("a"), tiles(5))
    assert len(cache.keep(key("b"), tiles(6)).features) == 6
    assert key("a") in cache
    assert key("b") not in cache


def test_branch_and_salt_are_part_of_what_is_asked_for():
    cache = FeatureCache(1000)
    names = [key("a"), key("a", "salt"), key("a", policy="all"), key("b")]
    for number, name in enumerate(names):
        assert cache.find(name) is None
        cache.keep(name, tiles(1, number))
    found = [cache.find(name) for name in names]
    assert [float(one.features) for one in found] == [0, 1, 2, 3]
    assert (cache.num_hits, cache.num_misses) == (4, 4)


def test_a_cache_of_less_than_nothing_is_refused():
    with pytest.raises(ConfigError, match="cache_bytes is -1; needed: 0 or more"):
        FeatureCache(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found_anywhere(dtype, bad):
    values = torch.full((7, 37), 30_000.0).to(dtype)
    values[0, 0] = -30_000.0
    assert is_finite(values)
    for place in range(values.numel()):
        spoilt = values.clone()
        spoilt.view(-1)[place] = bad
        assert not is_finite(spoilt)
    assert is_finite(torch.zeros(0, 3))
    assert is_finite(torch.ones(3, dtype=torch.bool))
