"""What becomes of requests while servers die, hang and come back: the counts of each case."""

from __future__ import annotations

import asyncio

import pytest
from benchmarks.serve import run_faults
from benchmarks.serve_chaos import CASES, find_faults
from benchmarks.serve_load import Counts, Load
from fake_fleet import fleet_of_fakes, make_questions

QUICK = ("quiet", "vision_killed", "corrupted_frames", "drain", "simultaneous")
"""Cases that run with every test run; all of them run with the slow ones."""


async def run_cases(names, load, max_requests=256):
    """Run cases one after the other in one fleet; gives counts by name."""
    found = {}
    async with fleet_of_fakes(max_requests).running() as fleet:
        for name in names:
            async with asyncio.timeout(300):
                found[name] = await CASES[name](fleet, load)
                await fleet.wait_ready()
                await fleet.wait_idle()
        return found


def test_nothing_is_lost_or_doubled_in_a_few_cases():
    load = Load(make_questions(), num_requests=40)
    found = asyncio.run(run_cases(QUICK, load, max_requests=32))
    assert {name: find_faults(name, counts) for name, counts in found.items()} == {
        name: [] for name in QUICK
    }
    assert found["quiet"] == Counts(sent=40, answered=40)
    assert found["simultaneous"].refused == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_nothing_is_lost_or_doubled(name):
    load = Load(make_questions(), num_requests=200, at_once=24)
    if name == "simultaneous":
        load = Load(make_questions(), num_requests=2000, timeout_s=300)
    counts = asyncio.run(run_cases([name], load, max_requests=256))[name]
    print(name, counts.as_dict())
    assert find_faults(name, counts) == []
    assert counts.sent == load.num_requests


@pytest.mark.slow
def test_processes_of_the_embedded_checkpoint_are_restarted_under_load(tmp_path):
    """As ``python -m benchmarks.serve faults`` does, which raises if a request is lost."""
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("no secret at all, but long enough")

    async def run():
        return [name async for name, _ in run_faults(["vision_killed", "drain"], str(secret))]

    assert asyncio.run(run()) == ["vision_killed", "drain"]
