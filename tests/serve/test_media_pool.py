"""Processes that decode are believed nothing, and replaced when they die, hang or lie."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import struct
import sys
from pathlib import Path

import pytest

from internvl35.config import TileSettings
from internvl35.data.frames import VideoSettings
from internvl35.data.images import ImageSettings
from internvl35.data.tiles import Grid
from internvl35.errors import BusyError, MediaError, ServerError
from internvl35.serve import media_pool
from internvl35.serve.media_pool import DecodePool
from internvl35.serve.media_worker import DecodeJob

SIDE = 8
TILE = 3 * SIDE * SIDE
TILES = TileSettings(tile_size=SIDE, max_tiles=4)
JOB = DecodeJob("image", TILES, ImageSettings(), VideoSettings(), 0.2, 2**30)
VIDEO = DecodeJob("video", TileSettings(SIDE, 1, 1), ImageSettings(), VideoSettings(), 0.2, 1, 2)

STAND_IN = """
import json, os, struct, sys, time
def take(size):
    data = sys.stdin.buffer.read(size)
    if len(data) != size: sys.exit()
    return data
while True:
    text, size = struct.unpack(">IQ", take(12))
    take(text)
    data = take(size)
    if data == b"pid":
        said, rest = {"error": str(os.getpid())}, b""
    elif data == b"env":
        said, rest = {"error": " ".join(sorted(os.environ))}, b""
    elif data == b"die":
        os._exit(3)
    elif data == b"hang":
        time.sleep(100)
    elif data == b"child":
        if os.fork() == 0:
            time.sleep(100)
        time.sleep(100)
    elif data.startswith(b"raw"):
        sys.stdout.buffer.write(data[3:]); sys.stdout.buffer.flush()
        continue
    else:
        size, _, text = data.partition(b" ")
        said, rest = json.loads(text), bytes(int(size))
    text = json.dumps(said).encode()
    sys.stdout.buffer.write(struct.pack(">IQ", len(text), len(rest)) + text + rest)
    sys.stdout.buffer.flush()
"""


@pytest.fixture
def command(tmp_path):
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN)
    return (sys.executable, "-S", str(path))


def given(data):
    async def read():
        return data

    return read


def say(said, num_bytes=0):
    return f"{num_bytes} {json.dumps(said)}".encode()


async def ask(pool, data, job=JOB):
    """Return what comes of a job: the tiles, or the error's text."""
    try:
        return await pool.decode(job, given(data))
    except MediaError as error:
        return str(error)


def run(command, work, num_workers=1, max_wait_s=30.0):
    async def all_of_it():
        pool = DecodePool(num_workers, max_wait_s, command)
        try:
            return await work(pool)
        finally:
            await pool.close()

    return asyncio.run(all_of_it())


@pytest.fixture
def no_patience(monkeypatch):
    monkeypatch.setattr(media_pool, "_GRACE_S", 0.1)
    monkeypatch.setattr(media_pool, "_START_S", 0.5)


GOOD = say({"sizes": [[16, 8]], "timestamps_s": []}, 3 * TILE)


def test_what_fits_the_job_becomes_tiles(command):
    loaded = run(command, lambda pool: ask(pool, GOOD))
    assert loaded.levels.shape == (3, 3, SIDE, SIDE)
    assert (loaded.grids, loaded.num_tiles) == ((Grid(2, 1),), (3,))
    assert not loaded.levels.flags.writeable


def test_frames_of_a_video_are_a_tile_each(command):
    said = {"sizes": [[16, 8], [16, 8]], "timestamps_s": [0, 1.5]}
    loaded = run(command, lambda pool: ask(pool, say(said, 2 * TILE), VIDEO))
    assert (loaded.grids, loaded.num_tiles) == ((Grid(1, 1),) * 2, (1, 1))
    assert loaded.timestamps_s == (0.0, 1.5)


@pytest.mark.parametrize(
    "said",
    [
        say({"sizes": [[16, 8]], "timestamps_s": []}, 2 * TILE),
        say({"sizes": [[16, 8]], "timestamps_s": []}, 4 * TILE),
        say({"sizes": [[16, 8]], "timestamps_s": [1.0]}, 3 * TILE),
        say({"sizes": [[16, 8], [16, 8]], "timestamps_s": []}, 3 * TILE),
        say({"sizes": [[0, 8]], "timestamps_s": []}, TILE),
        say({"sizes": [[True, True]], "timestamps_s": []}, TILE),
        say({"sizes": [[8.0, 8]], "timestamps_s": []}, TILE),
        say({"sizes": [["8", "8"]], "timestamps_s": []}, TILE),
        say({"sizes": [[10**30, 10**30]], "timestamps_s": []}, TILE),
        say({"sizes": [8], "timestamps_s": []}, TILE),
        say({"sizes": {}, "timestamps_s": []}),
        say({"sizes": [[16, 8]]}, 3 * TILE),
        say({}),
        say([]),
        say({"fault": "RuntimeError"}),
        say({"error": "bell\x07"}),
        b"raw" + struct.pack(">IQ", 2, 1 << 40) + b"{}",
        b"raw" + struct.pack(">IQ", 1 << 31, 0),
        b"raw" + struct.pack(">IQ", 3, 0) + b"{{{",
        b"raw" + struct.pack(">IQ", 60_000, 0) + b"[" * 60_000,
    ],
)
def test_what_cannot_be_is_no_answer_and_the_next_job_is_done(command, said):
    async def work(pool):
        return await ask(pool, said), await ask(pool, GOOD)

    refused, loaded = run(command, work)
    assert "it cannot be decoded" in refused
    assert len(loaded.levels) == 3


def test_what_a_sender_did_wrong_is_told_in_few_characters(command):
    async def work(pool):
        return await ask(pool, say({"error": "it is blue"})), await ask(
            pool, say({"error": "x" * 60_000})
        )

    short, long = run(command, work)
    assert short == "it is blue"
    assert len(long) == 500


def test_a_process_does_one_job_after_another(command):
    async def work(pool):
        return {await ask(pool, b"pid") for _ in range(4)}

    assert len(run(command, work)) == 1


@pytest.mark.usefixtures("no_patience")
@pytest.mark.parametrize("data", [b"die", b"hang"])
def test_a_process_that_dies_or_hangs_is_replaced(command, data):
    async def work(pool):
        return await ask(pool, b"pid"), await ask(pool, data), await ask(pool, b"pid")

    before, refused, after = run(command, work)
    assert before != after
    assert refused == "it cannot be decoded; send it in another format"


def test_a_process_that_was_killed_between_jobs_costs_no_job(command):
    async def work(pool):
        before = await ask(pool, b"pid")
        os.kill(int(before), signal.SIGKILL)
        return before, await ask(pool, b"pid")

    before, after = run(command, work)
    assert before != after
    assert after.isdigit()


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def members(group):
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(path.name))
    return found


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_who_gives_up_waiting_ends_the_process_with_its_children(command):
    async def work(pool):
        group = int(await ask(pool, b"pid"))
        slow = DecodeJob("image", TILES, ImageSettings(), VideoSettings(), 60.0, 2**30)
        task = asyncio.create_task(ask(pool, b"child", slow))
        while len(members(group)) < 2:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        while members(group):
            await asyncio.sleep(0.01)
        return await ask(pool, b"pid") != str(group)

    assert run(command, work)


def test_no_process_is_left_when_the_pool_is_closed(command):
    async def work(pool):
        pid = int(await ask(pool, b"pid"))
        slow = asyncio.create_task(ask(pool, b"hang", VIDEO))
        await asyncio.sleep(0)
        await pool.close()
        with pytest.raises(ServerError, match="stopping"):
            await slow
        with pytest.raises(ServerError, match="stopping"):
            await ask(pool, GOOD)
        return pid

    assert not is_alive(run(command, work, num_workers=2))


def test_who_waits_too_long_for_a_process_is_asked_to_come_again(command):
    async def work(pool):
        slow = DecodeJob("image", TILES, ImageSettings(), VideoSettings(), 60.0, 2**30)
        task = asyncio.create_task(ask(pool, b"hang", slow))
        await asyncio.sleep(0)
        with pytest.raises(BusyError) as busy:
            await ask(pool, GOOD)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return busy.value.retry_after_s, len((await ask(pool, GOOD)).levels)

    assert run(command, work, max_wait_s=0.05) == (1.0, 3)


def test_processes_know_no_secret(command, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    names = run(command, lambda pool: ask(pool, b"env")).split()
    assert "PYTHONPATH" in names
    assert {name for name in names if "KEY" in name or name in ("HOME", "PATH")} == set()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_replaced_processes_leave_no_open_files_behind(command):
    async def work(pool):
        counts = []
        for _ in range(4):
            await ask(pool, b"die")
            while pool._dying:
                await asyncio.sleep(0)
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
        return counts

    counts = run(command, work)
    assert counts[-1] <= counts[0]


def test_a_program_that_is_not_there_is_our_fault():
    async def work(pool):
        with pytest.raises(ServerError, match="can be started"):
            await ask(pool, GOOD)

    run(("/nowhere/at/all",), work)


def test_jobs_of_many_are_done_side_by_side(command):
    async def work(pool):
        return set(await asyncio.gather(*(ask(pool, b"pid") for _ in range(8))))

    assert 1 <= len(run(command, work, num_workers=3)) <= 3


def test_in_a_crowd_everyone_gets_his_own_answer_or_one_error(command):
    chance = random.Random(3)
    plans = [chance.choice(["good", "good", "die", "leave"]) for _ in range(60)]

    async def one(pool, number, plan):
        said = {"sizes": [[8, 8 * (number % 4 + 1)]], "timestamps_s": []}
        num_tiles = (1, 3, 4, 5)[number % 4]
        task = asyncio.create_task(
            ask(pool, b"die" if plan == "die" else say(said, num_tiles * TILE))
        )
        if plan == "leave":
            await asyncio.sleep(chance.random() / 5)
            task.cancel()
        (found,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(found, asyncio.CancelledError):
            return plan == "leave"
        return "cannot be decoded" in found if plan == "die" else len(found.levels) == num_tiles

    async def work(pool):
        right = await asyncio.gather(*(one(pool, *each) for each in enumerate(plans)))
        return right, len(pool._idle), len(pool._used), (await ask(pool, b"pid")).isdigit()

    right, num_idle, num_used, is_well = run(command, work, num_workers=3)
    assert right == [True] * 60
    assert (num_idle <= 3, num_used, is_well) == (True, 0, True)


def test_time_over_is_told_with_its_limit(command):
    assert run(command, lambda pool: ask(pool, say({"fault": "time"}))) == (
        "it takes longer than 0.2 s to decode; make it smaller"
    )
