"""What a soak reports of the memory of processes."""

from __future__ import annotations

import os

import numpy as np
import pytest
from benchmarks.serve_soak import POINTS, Samples, read_memory_mib


def test_growth_is_told_by_the_hour():
    samples = Samples()
    for minute in range(61):
        samples.add(minute / 60, {"steady": 100.0 + minute % 2, "grows": 100.0 + 0.5 * minute})
    found = samples.as_dict()
    assert found["grows"]["slope_mib_an_hour"] == 30.0
    assert found["steady"]["slope_mib_an_hour"] == pytest.approx(0.0, abs=0.1)
    assert [len(one["mib"]) for one in found.values()] == [POINTS, POINTS]
    first, last = found["grows"]["start_mib"], found["grows"]["end_mib"]
    assert (first, last) == (found["grows"]["mib"][0], found["grows"]["mib"][-1])
    assert last - first == pytest.approx(30 * (1 - 1 / POINTS), abs=0.5)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
def test_memory_that_is_taken_is_seen():
    before = read_memory_mib(os.getpid())
    taken = np.ones(20 * 2**20, np.uint8)
    assert read_memory_mib(os.getpid()) - before > 18
    assert taken[-1] == 1
