from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.data.row_choice import Choice, Rows, interleave, split_rows
from internvl35.errors import ConfigError, DataError


def split(
    lengths: list[int], repeats: list[float] | None = None, seed: int = 0, **choice: object
) -> tuple[Rows, Rows]:
    return split_rows(
        lengths,
        repeats or [1.0] * len(lengths),
        Choice(**choice),
        np.random.default_rng(seed),  # type: ignore[arg-type]
    )


def test_the_announced_split_gives_200_and_19800() -> None:
    train, val = split([99_552], count=20_000, val_ratio=0.01)
    assert (len(train), len(val)) == (19_800, 200)
    assert len(np.unique(np.concatenate([train, val]))) == 20_000
    assert train.dtype == np.int64


def test_without_a_count_every_row_is_used_once() -> None:
    train, val = split([30, 20])
    assert sorted(train) == list(range(50))
    assert len(val) == 0
    assert list(train) != list(range(50))
    assert list(split([30, 20], is_random=False)[0]) == list(range(50))


def test_a_count_beyond_the_rows_is_whole_repeats_and_a_part() -> None:
    train, _ = split([10], count=25)
    assert sorted(np.bincount(train, minlength=10)) == [2] * 5 + [3] * 5
    train, _ = split([4], count=10, is_random=False)
    assert list(train) == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_rows_in_order_are_taken_from_the_front_and_set_aside_at_the_back() -> None:
    train, val = split([100], count=20, val_ratio=0.1, is_random=False)
    assert list(train) == list(range(18))
    assert list(val) == [18, 19]


def test_no_row_is_in_both_parts_when_rows_repeat() -> None:
    train, val = split([100], count=1000, val_ratio=0.1)
    assert len(train) == 900
    assert len(val) == len(set(val)) == 10
    assert not set(train) & set(val)
    assert set(np.bincount(train, minlength=100)[sorted(set(train))]) == {10}


def test_repeats_of_tables_are_whole_or_a_random_part() -> None:
    train, _ = split([40, 40, 40], [0.25, 1, 2.5])
    counts = np.bincount(train, minlength=120)
    assert sorted(counts[:40]) == [0] * 30 + [1] * 10
    assert set(counts[40:80]) == {1}
    assert sorted(counts[80:]) == [2] * 20 + [3] * 20
    other, _ = split([40, 40, 40], [0.25, 1, 2.5], seed=1)
    assert set(other[other < 40]) != set(train[train < 40])


@settings(max_examples=150)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    repeats=st.lists(st.sampled_from([0.01, 0.3, 0.5, 1.0, 1.5, 2.0, 3.7]), min_size=4, max_size=4),
    count=st.none() | st.integers(1, 150),
    ratio=st.sampled_from([0.0, 0.01, 0.1, 0.29, 0.5, 0.99, 1.0]),
    is_random=st.booleans(),
    seed=st.integers(0, 9),
)
def test_a_choice_has_the_rows_that_were_asked_for(
    lengths: list[int],
    repeats: list[float],
    count: int | None,
    ratio: float,
    is_random: bool,
    seed: int,
) -> None:
    repeats = repeats[: len(lengths)]

    def choose() -> tuple[Rows, Rows]:
        return split(lengths, repeats, seed, count=count, val_ratio=ratio, is_random=is_random)

    total = sum(max(1, round(n * times)) for n, times in zip(lengths, repeats, strict=True))
    wanted = total if count is None else count
    distinct = sum(
        min(n, max(1, round(n * times))) for n, times in zip(lengths, repeats, strict=True)
    )
    if 0 < ratio < 1 and min(wanted, distinct) < 2:
        with pytest.raises(DataError, match="1 row cannot be split"):
            choose()
        return
    train, val = choose()
    again = choose()
    assert np.array_equal(train, again[0])
    assert np.array_equal(val, again[1])
    assert not set(train) & set(val)
    assert all(0 <= row < sum(lengths) for row in [*train, *val])
    assert len(set(val)) == len(val)
    if ratio == 0:
        assert len(val) == 0
        assert len(train) == wanted
    elif ratio == 1:
        assert len(train) == 0
        assert len(val) == min(wanted, distinct)
    else:
        assert 1 <= len(val) <= max(1, wanted * ratio + 1e-6)
        assert len(train) == min(wanted - int(wanted * ratio + 1e-9), wanted - len(val))
    if wanted <= distinct:
        assert len(set(train)) == len(train)


@settings(max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_sets_that_take_turns_end_where_they_should(
    lengths: list[int], weights: list[float], seed: int
) -> None:
    weights = weights[: len(lengths)]
    for stopping in ("first_exhausted", "all_exhausted"):
        sets, rows = interleave(lengths, weights, stopping, np.random.default_rng(seed))  # type: ignore[arg-type]
        taken = np.bincount(sets, minlength=len(lengths))
        is_full = taken >= lengths
        assert is_full.any() if stopping == "first_exhausted" else is_full.all()
        last = np.bincount(sets[:-1], minlength=len(lengths)) >= lengths  # one row less: not over
        assert not (last.any() if stopping == "first_exhausted" else last.all())
        for number, length in enumerate(lengths):
            own = rows[sets == number]
            assert list(own) == [place % length for place in range(len(own))]


def test_sets_are_drawn_by_their_weights() -> None:
    sets, _ = interleave([10**6] * 3, [1, 2, 5], "first_exhausted", np.random.default_rng(3))
    shares = np.bincount(sets) / len(sets)
    assert shares == pytest.approx([1 / 8, 2 / 8, 5 / 8], abs=0.002)


def test_turns_that_would_take_forever_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs more than 2147483648 rows"):
        interleave([10, 10], [1e-12, 1], "all_exhausted", np.random.default_rng(0))
