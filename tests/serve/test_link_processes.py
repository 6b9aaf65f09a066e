"""Servers that are processes of their own, and end without a word."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from internvl35.serve import shared_ring
from internvl35.serve.frame_pipe import LinkSettings
from internvl35.serve.frames import Block, NackCode, WireError
from internvl35.serve.handshake import Identity, make_fingerprint
from internvl35.serve.link import Link, open_link
from internvl35.serve.link_server import LinkServer
from internvl35.serve.messages import (
    Channel,
    Encode,
    Encoded,
    Features,
    Generate,
    Load,
    Profile,
    Tiles,
    new_request_id,
)

SECRET = b"a secret of both processes, long"
SHARED = 8 * 2**20
SIDE, TOKENS, WIDTH = 256, 64, 2048
PROFILE = Profile("gateway", "gate", SIDE, TOKENS, 16, WIDTH, image_token_id=7)
GATEWAY = Identity(PROFILE, make_fingerprint(b"same"), SECRET, SHARED)
PATIENCE = LinkSettings(ping_every_s=0.2, dead_after_s=2.0)
VISION = replace(GATEWAY, profile=replace(PROFILE, role="vision", name="eye"))


class Room:
    """Each tile's tokens repeat its first byte."""

    load = Load(0, 0, 0)

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        assert isinstance(opening, Encode)
        for _ in range(sum(opening.tiles)):
            tiles = await channel.receive()
            assert isinstance(tiles, Tiles)
            data = bytes(tiles.values.data[:1]) * (TOKENS * WIDTH * 2)
            block = Block("bf16", (TOKENS, WIDTH), data)
            own = Features(opening.request_id, tiles.first_tile, 1, (False,), None, block)
            await channel.send(own)
        await channel.send(Encoded(opening.request_id, 0, 0.0))


async def serve() -> None:
    """What the other process runs."""
    server = LinkServer(Room(), VISION)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process; the last test kills it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, __file__], stdout=subprocess.PIPE, text=True, env=environment
    )
    late = threading.Timer(120, process.kill)
    late.start()
    assert process.stdout is not None
    yield process, int(process.stdout.readline())
    late.cancel()
    process.kill()
    process.communicate()


async def ask(link: Link, opening: Encode) -> list[int]:
    """Return the first byte of each tile's tokens."""
    stream = await link.open(opening)
    total = sum(opening.tiles)

    async def send_all() -> None:
        for tile in range(total):
            block = Block("u8", (1, SIDE, SIDE, 3), bytes([tile]) * (SIDE * SIDE * 3))
            await stream.send(Tiles(opening.request_id, tile, 1, block))

    sending = asyncio.create_task(send_all())
    levels = [-1] * total
    try:
        while True:
            message = await stream.receive()
            if isinstance(message, Encoded):
                return levels
            assert isinstance(message, Features)
            data = bytes(message.values.data)
            assert data == data[:1] * len(data)
            levels[message.first_tile] = data[0]
    finally:
        stream.close()
        await asyncio.gather(sending, return_exceptions=True)


async def ask_either(links: list[Link], opening: Encode) -> tuple[list[int], int]:
    """What a gateway does: the next attempt goes to the next server."""
    for attempt, link in enumerate(links):
        try:
            return await ask(link, replace(opening, attempt=attempt)), attempt
        except WireError as error:
            if not error.code.is_retryable:
                raise
    raise AssertionError("no server answered")


def test_a_stopped_server_counts_as_gone(
    server: tuple[subprocess.Popen[str], int],
) -> None:
    """Its kernel still takes bytes, as that of a machine whose process hangs."""
    process, port = server

    async def main() -> None:
        link = await open_link("127.0.0.1", port, GATEWAY, PATIENCE)
        stream = await link.open(Encode(new_request_id(), 0, (2,), None, "", 0))
        process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(WireError, match="has not answered") as caught:
                await stream.receive()
        finally:
            process.send_signal(signal.SIGCONT)
        assert caught.value.code is NackCode.LOST
        await link.close()
        again = await open_link("127.0.0.1", port, GATEWAY, PATIENCE)
        assert await ask(again, Encode(new_request_id(), 0, (3,), None, "", 0)) == [0, 1, 2]
        await again.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_requests_of_a_killed_server_are_answered_by_another_each_once(
    server: tuple[subprocess.Popen[str], int],
) -> None:
    names = [name for name in os.listdir(shared_ring.FOLDER) if name.startswith("internvl35-")]

    async def main() -> None:
        process, port = server
        other = LinkServer(Room(), VISION)
        await other.start()
        ports = (port, other.port)
        links = [await open_link("127.0.0.1", port, GATEWAY, PATIENCE) for port in ports]
        assert all(link._pipe._found.ring is not None for link in links)
        sizes = [1, *[12] * 8]
        openings = [Encode(new_request_id(), 0, (size,), None, "", 0) for size in sizes]
        asked = [asyncio.create_task(ask_either(links, opening)) for opening in openings]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert all(task.result()[1] == 0 for task in done)
        process.send_signal(signal.SIGKILL)
        answers = await asyncio.gather(*asked)
        assert [levels for levels, _ in answers] == [[*range(size)] for size in sizes]
        attempts = [attempt for _, attempt in answers]
        assert attempts.count(0) >= len(done)
        assert 1 in attempts
        await links[0].wait_ended()
        assert links[0].error is not None
        assert links[0].error.code is NackCode.LOST
        with pytest.raises(WireError, match="no server answers"):
            await open_link("127.0.0.1", port, GATEWAY, PATIENCE)
        for link in links:
            await link.close()
        await other.close()

    asyncio.run(asyncio.wait_for(main(), 30))
    left = [name for name in os.listdir(shared_ring.FOLDER) if name.startswith("internvl35-")]
    assert set(left) <= set(names)


if __name__ == "__main__":
    asyncio.run(serve())
