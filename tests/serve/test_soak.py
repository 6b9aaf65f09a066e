"""Nothing is left behind by requests: no objects, tasks, files, threads or memory.

The unmarked tests count objects after many requests of all kinds. The slow one watches the memory
of processes under load, for ``INTERNVL35_SOAK_S`` seconds.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from batch_stubs import EchoEngine
from fake_servers import FakeLanguage, FakeVision, decoupled, make_request
from gateway_stubs import make_answerer

from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.bench.bodies import BodyMaker
from internvl35.serve.bench.settings import BenchSettings
from internvl35.serve.gateway import build_app

CHAT = "/v1/chat/completions"
SLACK = 20
"""Objects of a kind that may be more after hundreds of requests: caches, pools, one in flight."""


@pytest.fixture(autouse=True)
def only_new_objects():
    """Leave out of the count what was there before: looking through it takes seconds."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def count_all():
    """Count what lives: our objects by kind, tasks, files, threads."""
    gc.collect()
    kinds = Counter(
        f"{type(one).__module__}.{type(one).__qualname__}"
        for one in gc.get_objects()
        if str(type(one).__module__).startswith(("internvl35", "asyncio", "starlette", "fastapi"))
    )
    del kinds["asyncio.events.TimerHandle"]  # a loop throws cancelled ones away by the hundred
    kinds["files"] = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    kinds["threads"] = threading.active_count()
    kinds["objects / 50"] = len(gc.get_objects()) // 50
    return kinds


def find_growth(before, after, slack=SLACK):
    """Name what has become more."""
    grown = {name: (before[name], after[name]) for name in after}
    return {name: pair for name, pair in grown.items() if pair[1] > pair[0] + slack}


def test_growth_is_found():
    kept = []
    before = count_all()
    kept += [asyncio.Event() for _ in range(3 * SLACK)]
    assert list(find_growth(before, count_all())) == ["asyncio.locks.Event"]


async def send_all_kinds(client):
    """Send a request of every kind, one of them left before its end."""
    picture = {"type": "image_url", "image_url": {"url": "data:a"}}

    def body(text, **fields):
        content = [picture, {"type": "text", "text": text}]
        return {"messages": [{"role": "user", "content": content}], **fields}

    texts = ("hello", "BROKEN", "REFUSE", "RAISE", "data:BUSY")
    calls = [client.post(CHAT, json=body(text, stream=way)) for text in texts for way in (0, 1)]
    calls += [client.post(CHAT, content=b"{"), client.get("/metrics"), client.get("/nothing")]
    await asyncio.gather(*calls)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.002):
            await client.post(CHAT, json=body("SLOW"))


async def settle():
    """Wait until whoever was left before the end has gone."""
    for _ in range(500):
        if len(asyncio.all_tasks()) == 1:
            return
        await asyncio.sleep(0.01)


def test_a_gateway_keeps_nothing_of_requests():
    engine = EchoEngine(lambda text: 1.0 if "SLOW" in text else 0.0)
    answerer = make_answerer(engine)

    async def soak():
        transport = httpx.ASGITransport(build_app(answerer), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            for _ in range(10):
                await send_all_kinds(client)
            answerer.loader.items.clear()
            engine.seen.clear()
            await settle()
            before = count_all()
            for _ in range(40):
                await send_all_kinds(client)
            answerer.loader.items.clear()
            engine.seen.clear()
            await settle()
            return before, count_all()

    before, after = asyncio.run(soak())
    assert find_growth(before, after) == {}
    assert (answerer.room.num_requests, answerer.room.num_tiles, engine.num_now) == (0, 0, 0)


def test_links_keep_nothing_of_requests():
    async def ask(engine, is_left):
        updates = engine.stream(make_request([3, 4], [5]), SamplingSettings())
        async for _ in updates:
            if is_left:
                break
        await updates.aclose()

    async def soak():
        async with decoupled([FakeVision(), FakeVision()], [FakeLanguage()]) as (engine, servers):
            counts = []
            for number in (30, 150):
                for _ in range(number // 10):
                    await asyncio.gather(*(ask(engine, is_left=n % 3 == 0) for n in range(10)))
                while any(server.num_requests for server in servers):
                    await asyncio.sleep(0.01)
                counts.append(count_all())
            links = [peer.link for pool in engine.servers.pools for peer in pool.peers]
            assert [link.num_requests for link in links] == [0, 0, 0]
            return counts

    before, after = asyncio.run(soak())
    assert find_growth(before, after) == {}


def memory_of(pids):
    """Read how much memory processes hold, in MiB, by number."""
    found = {}
    for pid in pids:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        found[pid] = next(int(one.split()[1]) for one in lines if one.startswith("VmRSS")) / 1024
    return found


def family_of(pid):
    """List a process and all that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in family_of(int(child)))]


def is_ready(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
def server(tmp_path):
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "internvl35.cli", "serve", "--port", "0", "--vision", "1",
            "--language", "1",
        ],
        stderr=log,
    )  # fmt: skip
    try:
        while "listening at http" not in (text := (tmp_path / "log").read_text()):
            assert process.poll() is None, text
            time.sleep(0.2)
        address = text.partition("listening at ")[2].split()[0]
        ends = time.monotonic() + 120
        while not is_ready(address.replace("/v1", "/ready")):
            assert time.monotonic() < ends, (tmp_path / "log").read_text()
            time.sleep(0.2)
        yield process.pid, address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        log.close()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_processes_under_load_do_not_grow(server):
    pid, address = server
    seconds = float(os.environ.get("INTERNVL35_SOAK_S", "60"))
    maker = BodyMaker(BenchSettings(picture_width=100, picture_height=60, max_tokens=8), "tiny", 0)
    bodies = [maker.make() for _ in range(16)]  # the same ones again and again: caches are full

    async def ask(client, number):
        body = bodies[number % len(bodies)]
        if number % 5:
            async with client.stream("POST", "/chat/completions", json=body) as response:
                async for _ in response.aiter_lines():
                    if number % 5 == 1:  # leaves in the middle
                        return 0
            return response.status_code == 200
        return (await client.post("/chat/completions", json={"messages": 1})).status_code == 400

    async def load(until):
        num_right = num_sent = 0
        async with httpx.AsyncClient(base_url=address, timeout=120) as client:
            while time.monotonic() < until or num_sent < 100:
                found = await asyncio.gather(*(ask(client, num_sent + n) for n in range(10)))
                num_sent += len(found)
                num_right += sum(found)
        return num_sent, num_right

    asyncio.run(load(time.monotonic() + seconds / 2))
    before = memory_of(family_of(pid))
    num_sent, num_right = asyncio.run(load(time.monotonic() + seconds / 2))
    after = memory_of(family_of(pid))
    assert num_right == num_sent * 4 // 5
    assert set(after) == set(before)  # nobody died
    grown = {one: (before[one], after[one]) for one in after if after[one] > before[one] * 1.05 + 8}
    assert grown == {}, (num_sent, grown)
