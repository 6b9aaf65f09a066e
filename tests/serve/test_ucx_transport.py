"""Tensors over UCX: by a stand-in of ucxx that keeps bounds of messages as it does, and by ucxx."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from internvl35.errors import ConfigError
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

SIDE, TOKENS, WIDTH = 512, 64, 2048
TILE_BYTES, FEATURE_BYTES = SIDE * SIDE * 3, TOKENS * WIDTH * 2
PROFILE = Profile("gateway", "gate", SIDE, TOKENS, 16, WIDTH, image_token_id=7)
GATEWAY = Identity(
    PROFILE, make_fingerprint(b"same"), b"a secret of both processes, long", has_ucx=True
)
VISION = replace(GATEWAY, profile=replace(PROFILE, role="vision", name="eye"))
PATIENCE = LinkSettings(ping_every_s=0.2, dead_after_s=2.0)


class UCXError(Exception):
    """As of ``ucxx.exceptions``."""


class Net:
    """What the stand-ins of one test have in common: messages by tag, and what was asked."""

    def __init__(self) -> None:
        self.boxes: dict[int, asyncio.Queue[tuple[bytes, asyncio.Future[None]]]] = defaultdict(
            asyncio.Queue
        )
        self.sizes: list[int] = []
        self.endpoints: list[Endpoint] = []
        self.num_addresses_read = 0
        self.change: Callable[[bytes], bytes] = bytes
        self.error: UCXError | None = None
        self.is_stuck = False

    def get_ucx_address_from_buffer(self, raw: bytes) -> bytes:
        self.num_addresses_read += 1
        if raw != b"here":
            raise UCXError("no address")
        return raw

    async def create_endpoint_from_worker_address(self, address: bytes) -> Endpoint:
        self.endpoints.append(Endpoint(self))
        return self.endpoints[-1]


class Endpoint:
    """Sends are done when they are read; ``abort`` ends what waits."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.ended = asyncio.get_running_loop().create_future()

    async def send(self, part: memoryview, *, tag: int, force_tag: bool) -> None:
        assert force_tag
        if self.net.error is not None:
            raise self.net.error
        done = asyncio.get_running_loop().create_future()
        self.net.sizes.append(len(part))
        self.net.boxes[tag].put_nowait((self.net.change(bytes(part)), done))
        await self._or_end(done)

    async def recv(self, view: memoryview, *, tag: int, force_tag: bool) -> None:
        assert force_tag
        if self.net.is_stuck:
            await self._or_end(asyncio.get_running_loop().create_future())
        part, done = await self._or_end(asyncio.ensure_future(self.net.boxes[tag].get()))
        if len(part) > len(view):
            raise UCXError("message truncated")
        view[: len(part)] = part
        done.set_result(None)

    async def _or_end(self, wanted: asyncio.Future[Any]) -> Any:
        await asyncio.wait({wanted, self.ended}, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        wanted.cancel()
        raise UCXError("canceled")

    def abort(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    found, ucxx, exceptions = Net(), ModuleType("ucxx"), ModuleType("ucxx.exceptions")
    names = {
        "get_worker_address": lambda: b"here", "exceptions": exceptions,
        "get_ucx_address_from_buffer": found.get_ucx_address_from_buffer,
        "create_endpoint_from_worker_address": found.create_endpoint_from_worker_address,
    }  # fmt: skip
    vars(ucxx).update(names)
    vars(exceptions)["UCXError"] = UCXError
    monkeypatch.setitem(sys.modules, "ucxx", ucxx)
    monkeypatch.setitem(sys.modules, "ucxx.exceptions", exceptions)
    return found


class Room:
    """Each group of tiles gives tokens that repeat its first byte."""

    load = Load(0, 0, 0)

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        num_left = sum(opening.tiles)
        while num_left:
            tiles = await channel.receive()
            assert isinstance(tiles, Tiles)
            num_left -= tiles.num_tiles
            data = bytes(tiles.values.data)
            assert data == data[:1] * len(data)
            block = Block(
                "bf16", (tiles.num_tiles * TOKENS, WIDTH),
                data[:1] * (tiles.num_tiles * FEATURE_BYTES),
            )  # fmt: skip
            own = Features(
                opening.request_id, tiles.first_tile, tiles.num_tiles,
                (False,) * tiles.num_tiles, None, block,
            )  # fmt: skip
            await channel.send(own)
        await channel.send(Encoded(opening.request_id, 0, 0.0))


def request(num_tiles: int) -> Encode:
    return Encode(new_request_id(), 0, (num_tiles,), None, "", 0)


async def ask(link: Link, opening: Encode, group: int = 1) -> bytes:
    """Return the first byte of each group's tokens."""
    stream, levels = await link.open(opening), b""
    try:
        for first in range(0, sum(opening.tiles), group):
            data = bytes([first + 1]) * (group * TILE_BYTES)
            block = Block("u8", (group, SIDE, SIDE, 3), data)
            await stream.send(Tiles(opening.request_id, first, group, block))
            answer = await stream.receive()
            assert isinstance(answer, Features)
            found = bytes(answer.values.data)
            assert found == found[:1] * len(found)
            levels += found[:1]
        assert isinstance(await stream.receive(), Encoded)
    finally:
        stream.close()
    return levels


@asynccontextmanager
async def linked(server: Identity = VISION, gateway: Identity = GATEWAY) -> AsyncIterator[Link]:
    listening = LinkServer(Room(), server, settings=PATIENCE)
    await listening.start()
    try:
        link = await open_link("127.0.0.1", listening.port, gateway, PATIENCE)
        try:
            yield link
        finally:
            await link.close()
    finally:
        await listening.close()


def run(main: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:  # transfers that were cut off have to end by themselves
            await asyncio.wait(left, timeout=5)
        assert all(task.done() for task in left)

    asyncio.run(bounded())


async def refusal(answer: Awaitable[Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        await answer
    return caught.value


def test_large_tensors_go_over_ucx_in_pieces_of_four_mebibytes(net: Net) -> None:
    async def main() -> None:
        async with linked() as link:
            assert await ask(link, request(16), 8) == b"\1\11"
        pieces = [4 * 2**20, 8 * TILE_BYTES - 4 * 2**20, 8 * FEATURE_BYTES]
        assert net.sizes == pieces * 2
        assert len(net.boxes) == 2  # a tag for each direction
        assert all(one.ended.done() for one in net.endpoints)

    run(main())


def test_tags_differ_from_link_to_link(net: Net) -> None:
    async def main() -> None:
        for _ in range(3):
            async with linked() as link:
                assert await ask(link, request(1)) == b"\1"

    run(main())
    assert len(net.boxes) == 6


@pytest.mark.parametrize("sides", [(True, False), (False, True)])
def test_a_side_without_ucx_gets_everything_over_the_socket(
    net: Net, sides: tuple[bool, bool]
) -> None:
    async def main() -> None:
        server, gateway = (
            replace(one, has_ucx=has_ucx)
            for one, has_ucx in zip((VISION, GATEWAY), sides, strict=True)
        )
        async with linked(server, gateway) as link:
            assert await ask(link, request(3)) == b"\1\2\3"

    run(main())
    assert net.sizes == []
    assert net.endpoints == []


def test_tensors_over_ucx_need_a_secret() -> None:
    with pytest.raises(ConfigError, match="needed: a secret"):
        replace(GATEWAY, secret=None)


def test_ucx_hears_no_address_of_a_stranger(net: Net) -> None:
    stranger = replace(GATEWAY, secret=b"another secret, as long as it has to be")

    async def main() -> None:
        async with linked() as link:
            assert net.num_addresses_read == 2
            listening = LinkServer(Room(), VISION, settings=PATIENCE)
            await listening.start()
            asked = open_link("127.0.0.1", listening.port, stranger, PATIENCE)
            assert (await refusal(asked)).code is NackCode.UNAUTHENTICATED
            await listening.close()
            assert net.num_addresses_read == 2
            assert link.error is None

    run(main())


def test_a_tensor_that_was_changed_over_ucx_ends_the_link(net: Net) -> None:
    async def main() -> None:
        async with linked() as link:
            net.change = lambda part: part[:-1] + b"\0"
            assert (await refusal(ask(link, request(1)))).code is NackCode.CORRUPT
            await link.wait_ended()

    run(main())


def test_a_message_longer_than_announced_ends_the_link(net: Net) -> None:
    async def main() -> None:
        async with linked() as link:
            net.change = lambda part: part + b"\0"
            assert (await refusal(ask(link, request(1)))).code is NackCode.LOST
            await link.wait_ended()

    run(main())


def test_a_failure_of_ucx_ends_the_link_and_its_requests(net: Net) -> None:
    async def main() -> None:
        async with linked() as link:
            net.error = UCXError("endpoint timeout")
            error = await refusal(ask(link, request(1)))
            assert error.code is NackCode.LOST
            assert "endpoint timeout" in str(error)

    run(main())


def test_a_tensor_nobody_asked_for_is_passed_over_and_the_link_goes_on(net: Net) -> None:
    async def main() -> None:
        async with linked() as link:
            opening = request(1)
            stream = await link.open(opening)
            block = Block("u8", (8, SIDE, SIDE, 3), bytes(8 * TILE_BYTES))
            await stream.send(Tiles(opening.request_id, 0, 8, block))
            assert (await refusal(stream.receive())).code is NackCode.UNPLANNED
            stream.close()
            assert await ask(link, request(2)) == b"\1\2"

    run(main())


def test_a_link_that_closes_amid_a_tensor_ends_what_ucx_was_doing(net: Net) -> None:
    async def main() -> None:
        async with linked() as link:
            net.is_stuck = True
            asked = asyncio.ensure_future(ask(link, request(1)))
            while not net.sizes:
                await asyncio.sleep(0.01)
            await link.close()
            assert (await refusal(asked)).code is NackCode.LOST

    run(main())


HAS_UCX = importlib.util.find_spec("ucxx") is not None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_UCX, reason="needs the extra ucx")
def test_tensors_travel_between_processes_and_a_killed_one_is_noticed() -> None:
    """By ucxx itself, over whatever this machine has."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

    async def main(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        port = int(await asyncio.to_thread(process.stdout.readline))
        link = await open_link("127.0.0.1", port, GATEWAY, PATIENCE)
        assert link._pipe._found.fast is not None
        assert await ask(link, request(32), 8) == b"\1\11\21\31"
        asked = [asyncio.ensure_future(ask(link, request(32), 8)) for _ in range(4)]
        await asyncio.sleep(0)
        process.send_signal(signal.SIGKILL)
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, WireError)
            assert error.code is NackCode.LOST
        await link.close()

    command = [sys.executable, __file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            run(main(process))
        finally:
            process.kill()


async def serve() -> None:
    """What the other process runs."""
    server = LinkServer(Room(), VISION)
    await server.start()
    print(server.port, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
