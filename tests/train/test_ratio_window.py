"""Labels from a sliding window of ratios, against numpy on the same stream."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from internvl35.train.distributed import Workers
from internvl35.train.ratio_window import (
    COMPRESS,
    KEEP,
    RatioWindow,
    class_weights,
    loss_ratios,
)

ALONE = Workers()
steps_of_ratios = st.lists(
    st.lists(st.floats(0.01, 100), max_size=9), min_size=1, max_size=8
)  # fmt: skip


@given(steps_of_ratios, st.integers(1, 12), st.sampled_from([10.0, 50.0, 66.0, 95.0]))
def test_the_threshold_is_numpy_s_percentile_of_the_last_ratios(steps, size, percentile):
    window = RatioWindow(size, percentile, warmup=1)
    seen: list[float] = []
    for ratios in steps:
        before = window.threshold
        window.note(torch.tensor(ratios, dtype=torch.float64))
        assert window.threshold == before  # a step is judged by those before it alone
        window.advance(ALONE)
        seen += ratios
        last = np.array(seen[-size:])
        assert len(window) == len(last)
        if len(last):
            assert window.threshold == pytest.approx(np.percentile(last, percentile), rel=1e-12)
            assert window.compress_share == np.mean(last < window.threshold)
        else:
            assert window.threshold is None


def test_ratios_below_the_threshold_are_labelled_compress_and_equal_ones_are_not():
    window = RatioWindow(10, 50.0, warmup=3)
    window.note(torch.tensor([1.0, 2.0, 3.0]))
    window.advance(ALONE)
    labels = window.label(torch.tensor([1.5, 2.0, 2.5]))
    assert labels.tolist() == [COMPRESS, KEEP, KEEP]
    assert (COMPRESS, KEEP) == (0, 1)  # the router's first output is for compressing


def test_nothing_is_labelled_before_enough_ratios_are_known():
    window = RatioWindow(10, 50.0, warmup=3)
    window.note(torch.tensor([1.0, 2.0]))
    window.advance(ALONE)
    assert window.label(torch.tensor([1.0])) is None
    window.note(torch.tensor([3.0]))
    window.advance(ALONE)
    assert window.label(torch.tensor([1.0])) is not None


@given(st.floats(0.01, 0.99))
def test_both_classes_weigh_alike_and_a_tile_one_on_average(share):
    compress, keep = class_weights(share)
    assert share * compress == pytest.approx((1 - share) * keep)
    assert share * compress + (1 - share) * keep == pytest.approx(1)


def test_a_class_without_tiles_moves_no_weights():
    assert class_weights(0.0) == class_weights(1.0) == (1.0, 1.0)


def test_a_ratio_of_losses_near_zero_is_near_one():
    found = loss_ratios(torch.tensor([2.0, 1e-9, 0.0]), torch.tensor([1.0, 0.0, 0.5]), 0.01)
    assert found.tolist() == pytest.approx([2.01 / 1.01, 1.0, 0.01 / 0.51], rel=1e-5)


def test_a_window_goes_on_where_it_was_kept():
    generator = torch.Generator().manual_seed(0)
    first, second = (RatioWindow(6, 30.0, warmup=2) for _ in range(2))
    first.note(torch.rand(5, generator=generator))
    first.advance(ALONE)
    second.restore(json.loads(json.dumps(first.keep())))
    assert second.threshold == first.threshold is not None
    for window in (first, second):
        window.note(torch.tensor([0.1, 0.2, 0.3]))
        window.advance(ALONE)
    assert second.keep() == first.keep()
    assert second.threshold == first.threshold


@dataclass(frozen=True)
class TwoWorkers(Workers):
    """A process whose sums add what the other one says."""

    others: list[list[float]] = field(default_factory=list)

    def sum(self, values: Sequence[float]) -> list[float]:
        other = self.others.pop(0)
        assert len(other) == len(values)
        return [own + added for own, added in zip(values, other, strict=True)]


def test_processes_join_their_ratios_in_the_order_of_ranks():
    own, other = [1.0, 2.0, 3.0], [4.0, 5.0]
    windows = []
    for rank, mine, others in (
        (0, own, [[0.0, 2.0], [0.0, 0.0, 0.0, *other]]),
        (1, other, [[3.0, 0.0], [*own, 0.0, 0.0]]),
    ):
        window = RatioWindow(4, 50.0, warmup=1)
        window.note(torch.tensor(mine))
        window.advance(TwoWorkers(rank=rank, world_size=2, others=others))
        windows.append(window)
    for window in windows:
        assert window.keep() == {"ratios": [2.0, 3.0, 4.0, 5.0]}
        assert window.threshold == 3.5
