"""Plans of packs: nothing lost, nothing twice, within the limits, full, and with tiles balanced."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.packing import PackingSettings, PackReport, plan_packs, report_packs
from internvl35.errors import ConfigError

rows = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), min_size=0, max_size=60)


def mixture(num_rows, seed=0):
    """Rows as instruction data has them: a third of text alone, pictures of 1 to 26 tiles."""
    rng = np.random.default_rng(seed)
    num_tiles = rng.integers(1, 14, num_rows) * rng.integers(1, 3, num_rows)
    tiles = np.where(rng.random(num_rows) < 1 / 3, 0, num_tiles)
    return tiles * 256 + rng.integers(20, 1500, num_rows), tiles, rng.permutation(num_rows).tolist()


@given(
    sizes=rows,
    max_tokens=st.integers(1, 60),
    max_tiles=st.integers(1, 12),
    window=st.integers(1, 70),
    data=st.data(),
)
def test_every_row_is_in_one_pack_within_the_limits(sizes, max_tokens, max_tiles, window, data):
    tokens, tiles = ([size[axis] for size in sizes] for axis in (0, 1))
    chosen = data.draw(st.permutations(range(len(sizes))))
    order = chosen[: data.draw(st.integers(0, len(sizes)))]
    packs = plan_packs(
        tokens, tiles, order, max_tokens=max_tokens, max_tiles=max_tiles, window=window
    )
    assert sorted(row for pack in packs for row in pack) == sorted(order)
    for pack in packs:
        assert pack
        if len(pack) > 1:
            assert sum(tokens[row] for row in pack) <= max_tokens
            assert sum(tiles[row] for row in pack) <= max_tiles
    places = {row: place for place, row in enumerate(order)}
    for pack in packs:
        assert [places[row] for row in pack] == sorted(places[row] for row in pack)
    again = plan_packs(
        np.array(tokens, dtype=np.int64), np.array(tiles, dtype=np.int64), iter(order),
        max_tokens=max_tokens, max_tiles=max_tiles, window=window,
    )  # fmt: skip
    assert again == packs


def test_a_plan_by_hand():
    # ten tokens a pack: 6 + 4, 5 + 5 and 7 + 3 fill three packs to the brim
    tokens, tiles = [6, 5, 7, 4, 5, 3], [0] * 6
    packs = plan_packs(tokens, tiles, range(6), max_tokens=10, max_tiles=1)
    assert packs == [[0, 3], [1, 4], [2, 5]]
    report = report_packs(packs, tokens, tiles, max_tokens=10)
    assert report == PackReport(3, 6, token_fill=1.0, token_imbalance=1.0, tile_imbalance=1.0)


def test_tiles_are_spread_over_the_packs():
    # by tokens alone, the two rows of pictures would share a pack
    tokens, tiles = [50, 50, 25, 25, 25, 25], [8, 8, 0, 0, 0, 0]
    packs = plan_packs(tokens, tiles, range(6), max_tokens=100, max_tiles=16)
    assert sorted(sum(tiles[row] for row in pack) for pack in packs) == [8, 8]
    assert report_packs(packs, tokens, tiles, max_tokens=100).tile_imbalance == 1.0


def test_packs_have_at_most_the_tiles_that_are_allowed():
    packs = plan_packs([1] * 6, [40] * 6, range(6), max_tokens=100, max_tiles=96)
    assert [len(pack) for pack in packs] == [2, 2, 2]


def test_a_row_that_is_larger_than_a_pack_gets_one_of_its_own():
    packs = plan_packs([5, 200, 5, 5], [1, 1, 99, 1], range(4), max_tokens=100, max_tiles=96)
    assert sorted(packs) == [[0, 3], [1], [2]]


def test_packs_of_mixed_rows_are_full_and_alike():
    tokens, tiles, order = mixture(3000)
    packs = plan_packs(tokens, tiles, order, max_tokens=32_768, max_tiles=96)
    report = report_packs(packs, tokens, tiles, max_tokens=32_768)
    assert report.num_rows == 3000
    assert report.token_fill > 0.97
    assert report.tile_imbalance < 1.15
    assert report.token_imbalance < 1.05


def test_packs_come_in_the_order_of_training():
    tokens, tiles, order = mixture(600)
    packs = plan_packs(tokens, tiles, order, max_tokens=32_768, max_tiles=96, window=100)
    places = {row: place for place, row in enumerate(order)}
    firsts = [min(places[row] for row in pack) for pack in packs]
    # within a window in order; a pack that moved on begins before the window it moved to
    assert sum(one > other for one, other in pairwise(firsts)) <= 600 // 100
    for pack in packs:
        assert max(places[row] for row in pack) - min(places[row] for row in pack) < 300


def test_a_row_moves_on_to_the_next_window_at_most_once():
    # the first row leaves no room for other tiles and has hardly a token, so its pack is emptiest
    tokens, tiles = [1, *[50] * 19], [96, *[1] * 19]
    packs = plan_packs(tokens, tiles, range(20), max_tokens=100, max_tiles=96, window=4)
    assert [pack for pack in packs if 0 in pack] == [[0]]
    assert packs.index([0]) <= 4


def test_no_rows_make_no_packs():
    assert plan_packs([], [], [], max_tokens=10, max_tiles=1) == []
    report = report_packs([], [], [], max_tokens=10)
    assert report == PackReport(0, 0, token_fill=0.0, token_imbalance=1.0, tile_imbalance=1.0)


@pytest.mark.parametrize("name", ["packing_length", "packing_max_tiles", "packing_window"])
def test_settings_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 0; it must be at least 1"):
        PackingSettings(**{name: 0})
