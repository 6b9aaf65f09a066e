from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from internvl35.errors import ConfigError, PromptError
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve import frame_pipe, shared_ring
from internvl35.serve.frame_pipe import LinkSettings
from internvl35.serve.frames import HEADER_BYTES, ChecksumSeal, NackCode, WireError
from internvl35.serve.handshake import Acquaintance, Identity, make_fingerprint
from internvl35.serve.link import Link, open_link
from internvl35.serve.link_server import LinkServer, ListenSettings
from internvl35.serve.messages import (
    Channel,
    Encode,
    Encoded,
    Features,
    Finished,
    Generate,
    Load,
    Profile,
    Progress,
    Tiles,
    new_request_id,
    to_block,
    to_tensor,
)

SIDE, WIDTH, WHOLE, FEW = 4, 8, 4, 1
PROFILE = Profile("gateway", "gate", SIDE, WHOLE, FEW, WIDTH, image_token_id=7)
SECRET = b"0123456789abcdef0123456789abcdef"
FINGERPRINT = make_fingerprint(b"model", b"pictures")
GATEWAY = Identity(PROFILE, FINGERPRINT, SECRET)
FAST = LinkSettings(ping_every_s=0.05, dead_after_s=0.4, lease_s=0.6)
Work = Callable[[Encode | Generate, Channel], Awaitable[None]]


class Room:
    """A server whose work is a function."""

    load = Load(1, 2, 3)

    def __init__(self, work: Work) -> None:
        self.work = work

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        await self.work(opening, channel)


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set()

    asyncio.run(bounded())


@asynccontextmanager
async def serving(
    work: Work,
    own: Identity | None = None,
    listen: ListenSettings | None = None,
    settings: LinkSettings = FAST,
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[LinkServer]:
    own = own or Identity(replace(PROFILE, role="vision", name="eye"), FINGERPRINT, SECRET)
    server = LinkServer(Room(work), own, listen, settings, context)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


@asynccontextmanager
async def linked(
    server: LinkServer, own: Identity = GATEWAY, settings: LinkSettings = FAST
) -> AsyncIterator[Link]:
    link = await open_link("127.0.0.1", server.port, own, settings)
    try:
        yield link
    finally:
        await link.close()


def encode_request(num_tiles: int = 2) -> Encode:
    return Encode(new_request_id(), 0, (num_tiles,), None, "", 0)


def picture(request_id: str, first: int, count: int) -> Tiles:
    levels = torch.arange(first + 1, first + count + 1, dtype=torch.uint8)
    values = levels[:, None, None, None].expand(-1, SIDE, SIDE, 3)
    return Tiles(request_id, first, count, to_block(values))


def visual_tokens(tiles: Tiles) -> torch.Tensor:
    """Stands for a tower: every number of a tile's tokens is the tile's first level."""
    levels = to_tensor(tiles.values).flatten(1)[:, 0].repeat_interleave(WHOLE)
    return levels[:, None].expand(-1, WIDTH).to(torch.bfloat16)


async def encode(opening: Encode | Generate, channel: Channel) -> None:
    """Answer every group of tiles as it comes."""
    assert isinstance(opening, Encode)
    num_done = 0
    while num_done < sum(opening.tiles):
        tiles = await channel.receive()
        assert isinstance(tiles, Tiles)
        num_done += tiles.num_tiles
        await channel.send(
            Features(
                opening.request_id, tiles.first_tile, tiles.num_tiles,
                (False,) * tiles.num_tiles, None, to_block(visual_tokens(tiles)),
            )
        )  # fmt: skip
    await channel.send(Encoded(opening.request_id, 0, 0.5))


async def ask(link: Link, opening: Encode, group: int = 1) -> torch.Tensor:
    """Send all tiles, last group first, and put what comes back in order."""
    stream = await link.open(opening)
    total = sum(opening.tiles)
    for first in reversed(range(0, total, group)):
        await stream.send(picture(opening.request_id, first, min(group, total - first)))
    found: dict[int, torch.Tensor] = {}
    while True:
        message = await stream.receive()
        if isinstance(message, Encoded):
            return torch.cat([found[first] for first in sorted(found)])
        assert isinstance(message, Features)
        found[message.first_tile] = to_tensor(message.values)


def expected(num_tiles: int) -> torch.Tensor:
    levels = torch.arange(1, num_tiles + 1).repeat_interleave(WHOLE)
    return levels[:, None].expand(-1, WIDTH).to(torch.bfloat16)


async def refusal(answer: Awaitable[Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        await answer
    return caught.value


async def wait_forever(opening: Encode | Generate, channel: Channel) -> None:
    await asyncio.Event().wait()


def test_forty_requests_at_once_get_their_own_features() -> None:
    async def main() -> None:
        async with serving(encode) as server, linked(server) as link:
            sizes = [1 + number % 5 for number in range(40)]
            answers = await asyncio.gather(*(ask(link, encode_request(size)) for size in sizes))
            for size, answer in zip(sizes, answers, strict=True):
                assert torch.equal(answer, expected(size))
            assert link.num_requests == server.num_requests == 0
            assert link.peer.name == "eye"

    run(main())


def test_a_language_server_gets_a_prompt_with_features_and_streams_its_answer() -> None:
    own = Identity(replace(PROFILE, role="language", name="mouth"), FINGERPRINT, SECRET)
    request_id = new_request_id()

    async def write(opening: Encode | Generate, channel: Channel) -> None:
        assert isinstance(opening, Generate)
        assert to_tensor(opening.values).tolist() == [1, 7, 2]
        features = await channel.receive()
        assert isinstance(features, Features)
        assert torch.equal(to_tensor(features.values), torch.ones(1, WIDTH, dtype=torch.bfloat16))
        await channel.send(Progress(request_id, 0, (5,), "five", None, "stop", None))
        await channel.send(Finished(request_id, 3, 0.1, 0.2))

    async def main() -> None:
        from internvl35.data.token_writer import ImageSpan

        prompt = to_block(torch.tensor([1, 7, 2], dtype=torch.int32))
        opening = Generate(
            request_id, 0, (ImageSpan(1, 1, 1),), (True,), SamplingSettings(), "", 0, None, prompt
        )
        async with serving(write, own) as server, linked(server) as link:
            stream = await link.open(opening)
            values = to_block(torch.ones(1, WIDTH, dtype=torch.bfloat16))
            await stream.send(Features(request_id, 0, 1, (True,), (0.9,), values))
            update = await stream.receive()
            assert isinstance(update, Progress)
            assert (update.text, update.finish_reason) == ("five", "stop")
            assert await stream.receive() == Finished(request_id, 3, 0.1, 0.2)
            assert (await refusal(stream.receive())).code is NackCode.UNKNOWN_REQUEST

    run(main())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"secret": b"x" * 32}, NackCode.UNAUTHENTICATED),
        ({"secret": None}, NackCode.UNAUTHENTICATED),
        ({"fingerprint": make_fingerprint(b"modelp", b"ictures")}, NackCode.INCOMPATIBLE),
        ({"profile": replace(PROFILE, role="vision")}, NackCode.INCOMPATIBLE),
    ],
)
def test_a_peer_that_does_not_belong_here_is_refused(
    change: dict[str, Any], code: NackCode
) -> None:
    async def main() -> None:
        async with serving(encode) as server:
            asked = open_link("127.0.0.1", server.port, replace(GATEWAY, **change), FAST)
            assert (await refusal(asked)).code is code
            async with linked(server) as link:
                assert torch.equal(await ask(link, encode_request(1)), expected(1))

    run(main())


def test_a_name_with_several_addresses_is_tried_to_the_end() -> None:
    async def main() -> None:
        async with serving(encode) as server:  # at 127.0.0.1; localhost may mean ::1 first
            link = await open_link("localhost", server.port, GATEWAY, FAST)
            assert torch.equal(await ask(link, encode_request(1)), expected(1))
            await link.close()
            error = await refusal(open_link("localhost", 1, GATEWAY, FAST))
            assert error.code is NackCode.LOST

    run(main())


def test_a_stranger_that_talks_nonsense_learns_nothing() -> None:
    async def main() -> None:
        async with serving(encode) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"GET / HTTP/1.1".ljust(HEADER_BYTES))
            said = await reader.read()
            assert b"malformed" in said
            assert b"eye" not in said
            assert FINGERPRINT not in said
            writer.close()

    run(main())


def test_a_server_that_does_not_hold_the_secret_is_refused() -> None:
    """It lets everyone in, but cannot prove who it is."""

    async def main() -> None:
        own = Identity(replace(PROFILE, role="vision"), FINGERPRINT, None)
        async with serving(encode, own) as server:
            asked = open_link("127.0.0.1", server.port, GATEWAY, FAST)
            assert (await refusal(asked)).code is NackCode.UNAUTHENTICATED

    run(main())


def test_strangers_that_say_nothing_take_no_place_for_long() -> None:
    async def main() -> None:
        listen = ListenSettings(max_connections=2)
        settings = replace(FAST, handshake_s=0.2)
        async with serving(encode, None, listen, settings) as server:
            address = ("127.0.0.1", server.port)
            silent = [socket.create_connection(address) for _ in range(2)]
            refused: set[NackCode] = set()
            while True:
                try:
                    async with linked(server) as link:
                        assert torch.equal(await ask(link, encode_request(1)), expected(1))
                    break
                except WireError as error:
                    refused.add(error.code)
            assert refused == {NackCode.LOST}  # while both of them were waited for
            for one in silent:
                one.close()

    run(main())


def test_listening_to_the_world_needs_a_secret_or_certificates() -> None:
    open_to_all = Identity(replace(PROFILE, role="vision"), FINGERPRINT)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        with pytest.raises(ConfigError, match="everyone could connect"):
            LinkServer(Room(encode), open_to_all, ListenSettings(host))
    one_sided = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ConfigError, match="everyone could connect"):
        LinkServer(Room(encode), open_to_all, ListenSettings("0.0.0.0"), None, one_sided)
    LinkServer(Room(encode), open_to_all, ListenSettings("::1"))
    LinkServer(Room(encode), replace(open_to_all, secret=SECRET), ListenSettings("0.0.0.0"))
    with pytest.raises(ConfigError, match="needed: 32"):
        replace(open_to_all, secret=b"short")
    assert "0123" not in repr(replace(open_to_all, secret=SECRET))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (lambda name: picture(name, 1, 2), NackCode.UNPLANNED),
        (lambda name: replace(picture(name, 0, 1), num_tiles=2), NackCode.UNPLANNED),
        (lambda name: Encoded(name, 0, 0.0), NackCode.UNPLANNED),
    ],
    ids=["beyond the last tile", "fewer numbers than tiles", "of the other direction"],
)
def test_numbers_that_no_plan_asks_for_end_their_request_and_no_other(
    message: Callable[[str], Any], code: NackCode
) -> None:
    async def main() -> None:
        async with serving(encode) as server, linked(server) as link:
            good, bad = encode_request(2), encode_request(2)
            stream, other = await link.open(bad), await link.open(good)
            wrong = message(bad.request_id)
            if isinstance(wrong, Encoded):
                await stream._post.post(*_parts(wrong))
            else:
                await stream.send(wrong)
            assert (await refusal(stream.receive())).code is code
            await other.send(picture(good.request_id, 0, 2))
            assert isinstance(await other.receive(), Features)
            assert link.error is None

    run(main())


def _parts(message: Any) -> Any:
    from internvl35.serve.message_frames import write_message

    return write_message(message)


def test_a_tile_that_comes_twice_is_refused() -> None:
    async def main() -> None:
        async with serving(wait_forever) as server, linked(server) as link:
            opening = encode_request(2)
            stream = await link.open(opening)
            for _ in range(2):
                await stream.send(picture(opening.request_id, 0, 1))
            error = await refusal(stream.receive())
            assert error.code is NackCode.UNPLANNED
            assert "came before" in str(error)

    run(main())


def test_a_vision_server_cannot_hand_out_other_tokens_than_its_tiles_have() -> None:
    async def lie(opening: Encode | Generate, channel: Channel) -> None:
        values = torch.zeros(WHOLE + 1, WIDTH, dtype=torch.bfloat16)
        await channel.send(Features(opening.request_id, 0, 1, (False,), None, to_block(values)))
        await asyncio.Event().wait()

    async def main() -> None:
        async with serving(lie) as server, linked(server) as link:
            stream = await link.open(encode_request(1))
            assert (await refusal(stream.receive())).code is NackCode.UNPLANNED
            while server.num_requests:  # the gateway's Cancel ends the work
                await asyncio.sleep(0.01)

    run(main())


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        (PromptError("3 marks"), NackCode.WRONG_REQUEST, "3 marks"),
        (PromptError("half \ud800" + "x" * 10**7), NackCode.WRONG_REQUEST, "half ?xxx"),
        (WireError(NackCode.BUSY, "full", 2.5), NackCode.BUSY, "full"),
        (KeyError("/etc/secret"), NackCode.INTERNAL, "its log says why"),
        (None, NackCode.INTERNAL, "without an answer"),
    ],
)
def test_every_request_that_fails_says_so_with_its_code(
    raised: Exception | None, code: NackCode, text: str
) -> None:
    async def fail(opening: Encode | Generate, channel: Channel) -> None:
        if raised is not None:
            raise raised

    async def main() -> None:
        async with serving(fail) as server, linked(server) as link:
            error = await refusal((await link.open(encode_request())).receive())
            assert error.code is code
            assert text in str(error)
            assert "secret" not in str(error)
            assert error.retry_after_s == (2.5 if code is NackCode.BUSY else None)

    run(main())


def test_a_request_is_worked_on_once_and_a_later_attempt_takes_its_place() -> None:
    works: list[int] = []

    async def count(opening: Encode | Generate, channel: Channel) -> None:
        works.append(opening.attempt)
        await asyncio.Event().wait()

    async def main() -> None:
        async with serving(count) as server, linked(server) as one, linked(server) as two:
            opening = encode_request()
            first = await one.open(opening)
            again = await two.open(opening)
            assert (await refusal(again.receive())).code is NackCode.DUPLICATE
            later = await two.open(replace(opening, attempt=1))
            assert (await refusal(first.receive())).code is NackCode.EXPIRED
            later.close()
            while server.num_requests:
                await asyncio.sleep(0.01)
            for attempt, code in ((1, NackCode.DUPLICATE), (0, NackCode.DUPLICATE)):
                stream = await one.open(replace(opening, attempt=attempt))
                assert (await refusal(stream.receive())).code is code
            assert works == [0, 1]

    run(main())


def test_ids_are_forgotten_when_too_many_are_known() -> None:
    async def main() -> None:
        listen = ListenSettings(max_remembered=2)
        async with serving(encode, None, listen) as server, linked(server) as link:
            first = encode_request(1)
            for opening in (first, encode_request(1), encode_request(1)):
                await ask(link, opening)
            while server.num_requests:
                await asyncio.sleep(0)
            assert torch.equal(await ask(link, first), expected(1))

    run(main())


def test_a_full_server_says_when_to_come_back() -> None:
    own = Identity(
        replace(PROFILE, role="vision", max_requests=2, max_tiles=3), FINGERPRINT, SECRET
    )

    async def main() -> None:
        async with serving(wait_forever, own) as server, linked(server) as link:
            openings = [encode_request() for _ in range(3)]
            streams = [await link.open(opening) for opening in openings]
            error = await refusal(streams[2].receive())
            assert (error.code, error.retry_after_s) == (NackCode.BUSY, 1.0)
            large = await link.open(encode_request(4))
            assert (await refusal(large.receive())).code is NackCode.TOO_LARGE
            streams[0].close()
            while server.num_requests == 2:
                await asyncio.sleep(0.01)
            later = await link.open(openings[2])  # what was refused was not worked on
            while server.num_requests < 2:
                await asyncio.sleep(0.01)
            assert not later.is_ended

    run(main())


def test_a_slow_reader_holds_up_its_sender_and_nobody_else() -> None:
    tile_bytes = SIDE * SIDE * 3
    profile = replace(PROFILE, role="vision", window_bytes=3 * tile_bytes)
    may_read = asyncio.Event()

    async def slow(opening: Encode | Generate, channel: Channel) -> None:
        if opening.priority:
            await may_read.wait()
        await encode(opening, channel)

    async def main() -> None:
        own = Identity(profile, FINGERPRINT, SECRET)
        async with serving(slow, own) as server, linked(server) as link:
            held = replace(encode_request(40), priority=1)
            asked = asyncio.create_task(ask(link, held))
            for size in (30, 2):
                assert torch.equal(await ask(link, encode_request(size)), expected(size))
            (stream,) = server._requests.values()
            assert not asked.done()
            assert 0 < stream._num_unread <= 5 * tile_bytes
            may_read.set()
            assert torch.equal(await asked, expected(40))

    run(main())


def test_a_gateway_that_dies_ends_its_requests() -> None:
    cancelled: list[str] = []

    async def note(opening: Encode | Generate, channel: Channel) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(opening.request_id)

    async def main() -> None:
        async with serving(note) as server, linked(server) as link:
            opening = encode_request()
            stream = await link.open(opening)
            while not server.num_requests:
                await asyncio.sleep(0.01)
            link._pipe._transport._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
            assert (await refusal(stream.receive())).code is NackCode.LOST
            while server.num_requests:
                await asyncio.sleep(0.01)
            assert cancelled == [opening.request_id]
            assert (await refusal(link.open(encode_request()))).code is NackCode.LOST

    run(main())


def test_a_peer_that_falls_silent_is_noticed() -> None:
    """The connection stays open, as behind a cable that was pulled."""

    async def main() -> None:
        async with serving(wait_forever) as server, linked(server) as link:
            stream = await link.open(encode_request())
            (remote,) = await _links_of(server)
            remote._pipe.write = _never  # type: ignore[method-assign]
            error = await refusal(stream.receive())
            assert error.code is NackCode.LOST
            assert "has not answered" in str(error)

    run(main())


async def _links_of(server: LinkServer) -> set[Link]:
    while not server._links:
        await asyncio.sleep(0.01)
    return server._links


async def _never(*_: object) -> None:
    await asyncio.Event().wait()


def test_a_request_that_its_gateway_forgot_ends_with_its_lease() -> None:
    async def main() -> None:
        async with serving(wait_forever) as server, linked(server) as link:
            kept, lost = await link.open(encode_request()), await link.open(encode_request())
            while server.num_requests < 2:
                await asyncio.sleep(0.01)
            link.forget(lost)
            while server.num_requests == 2:
                await asyncio.sleep(0.01)
            assert list(server._requests) == [kept.request_id]
            await asyncio.sleep(FAST.lease_s * 1.5)
            assert list(server._requests) == [kept.request_id]
            assert link.peer_load == Room.load

    run(main())


def test_a_server_that_drains_finishes_what_it_has_and_takes_nothing_new() -> None:
    async def main() -> None:
        async with serving(encode) as server, linked(server) as link:
            opening = encode_request(2)
            stream = await link.open(opening)
            while not server.num_requests:
                await asyncio.sleep(0.01)
            drained = asyncio.create_task(server.drain(10))
            while not link.is_draining:
                await asyncio.sleep(0.01)
            assert (await refusal(link.open(encode_request()))).code is NackCode.DRAINING
            await stream.send(picture(opening.request_id, 0, 2))
            assert isinstance(await stream.receive(), Features)
            assert isinstance(await stream.receive(), Encoded)
            assert await drained == 0

    run(main())


def test_a_drain_that_takes_too_long_counts_what_it_cuts_off() -> None:
    async def main() -> None:
        async with serving(wait_forever) as server, linked(server) as link:
            stream = await link.open(encode_request())
            while not server.num_requests:
                await asyncio.sleep(0.01)
            assert await server.drain(0.05) == 1
            error = await refusal(stream.receive())
            assert error.code is NackCode.LOST
            assert error.code.is_retryable

    run(main())


def _break(frame: bytearray, how: str) -> list[bytes]:
    """What arrives in place of a frame: ``frame`` begins with its header."""
    if how == "corrupted":
        frame[-1] ^= 1
    elif how == "corrupted head":
        frame[40] ^= 1
    elif how == "duplicated":
        return [bytes(frame), bytes(frame)]
    elif how == "lost":
        return []
    elif how == "oversized":
        frame[64:72] = (2**40).to_bytes(8, "little")
    elif how == "truncated":
        return [bytes(frame[:-1]), b"end"]
    return [bytes(frame)]


class Saboteur:
    """Changes the next frame that brings a tensor, between a link and its socket."""

    def __init__(self, under: Any, how: str) -> None:
        self.under, self.how, self.held = under, how, b""

    async def read_into(self, view: memoryview) -> None:
        await self.under.read_into(view)

    async def write(self, parts: list[Any]) -> None:
        frame = bytearray().join(parts)
        if self.how == "reordered" and not self.held:
            self.held = bytes(frame)
            return
        pieces = [bytes(frame), self.held] if self.held else _break(frame, self.how)
        self.how, self.held = "", b""
        for piece in pieces:
            if piece == b"end":
                self.under._socket.shutdown(socket.SHUT_RDWR)
                return
            await self.under.write([piece])

    def close(self) -> None:
        self.under.close()


@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("corrupted", NackCode.CORRUPT),
        ("corrupted head", NackCode.CORRUPT),
        ("duplicated", NackCode.OUT_OF_ORDER),
        ("lost", NackCode.OUT_OF_ORDER),
        ("reordered", NackCode.OUT_OF_ORDER),
        ("oversized", NackCode.TOO_LARGE),
        ("truncated", NackCode.LOST),
    ],
)
def test_a_frame_that_suffers_on_its_way_ends_the_connection_and_is_never_used(
    how: str, code: NackCode
) -> None:
    seen: list[int] = []

    async def note(opening: Encode | Generate, channel: Channel) -> None:
        while True:
            tiles = await channel.receive()
            assert isinstance(tiles, Tiles)
            seen.append(tiles.first_tile)

    async def main() -> None:
        async with serving(note) as server, linked(server) as link:
            opening = encode_request(3)
            stream = await link.open(opening)
            await stream.send(picture(opening.request_id, 0, 1))
            while seen != [0]:
                await asyncio.sleep(0.01)
            link._pipe._transport = Saboteur(link._pipe._transport, how)
            sends = (stream.send(picture(opening.request_id, first, 1)) for first in (1, 2))
            await asyncio.gather(*sends, return_exceptions=True)
            error = await refusal(stream.receive())
            assert error.code is code
            while server.num_requests:
                await asyncio.sleep(0.01)
            assert seen == ([0, 1] if how == "duplicated" else [0])
            async with linked(server) as fresh:  # the server itself goes on
                again = await fresh.open(replace(opening, attempt=1))
                await again.send(picture(opening.request_id, 2, 1))
                while seen[-1] != 2:
                    await asyncio.sleep(0.01)

    run(main())


def test_whoever_is_sending_when_a_link_ends_hears_of_it() -> None:
    class Stuck:
        """A peer that neither reads nor writes."""

        async def read_into(self, view: memoryview) -> None:
            await asyncio.Event().wait()

        async def write(self, parts: object) -> None:
            await asyncio.Event().wait()

        def close(self) -> None:
            pass

    async def main() -> None:
        found = Acquaintance(PROFILE, ChecksumSeal(), ChecksumSeal(), None)
        link = Link(Stuck(), GATEWAY, found, FAST)
        asked = refusal(link.open(encode_request()))  # the first frame is the one being written
        assert (await asked).code is NackCode.LOST
        await link.close()

    run(main())


def test_a_link_closed_at_once_hangs_up_and_keeps_nothing_of_those_who_ask_it() -> None:
    async def main() -> None:
        async with serving(encode) as server, linked(server) as link:
            await link.close()  # its task has hardly begun
            while server._links or server._num_connections:
                await asyncio.sleep(0.01)
            for _ in range(2):
                error = await refusal(link.open(encode_request()))
                assert error.code is NackCode.LOST
            kept = link._end
            assert kept is not None
            assert (str(kept), kept.__traceback__, kept.__context__) == (str(error), None, None)

    run(main())


def test_a_server_sees_by_itself_that_its_work_stands_still() -> None:
    async def main() -> None:
        async with serving(encode) as server:
            waiting = asyncio.create_task(server.wait_stalled())
            await asyncio.sleep(3 * FAST.ping_every_s)
            assert not waiting.done()
            server._service.load = Load(1, 2, 3, int(FAST.stalled_after_s) + 1)
            await waiting

    run(main())


def test_tensors_go_through_shared_memory_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame_pipe, "_LARGE", 1)
    own = Identity(
        replace(PROFILE, role="vision"), FINGERPRINT, SECRET, shared_bytes=2 * SIDE * SIDE * 3
    )

    async def main() -> None:
        before = set(os.listdir(shared_ring.FOLDER))
        gateway = replace(GATEWAY, shared_bytes=own.shared_bytes)
        async with serving(encode, own) as server, linked(server, gateway) as link:
            made = {name for name in os.listdir(shared_ring.FOLDER) if "internvl35" in name}
            assert made <= before
            ring = link._pipe._found.ring
            assert ring is not None
            for size in (1, 2, 7, 20):  # more than fits at once goes through the socket
                assert torch.equal(await ask(link, encode_request(size), 2), expected(size))
            while ring.num_used_bytes:
                await asyncio.sleep(0.01)
            assert torch.equal(await ask(link, encode_request(1)), expected(1))

    run(main())


@pytest.mark.parametrize("sizes", [(4096, 0), (0, 4096), (4096, 8192)])
def test_sides_that_share_no_memory_use_the_socket(sizes: tuple[int, int]) -> None:
    async def main() -> None:
        own = Identity(replace(PROFILE, role="vision"), FINGERPRINT, SECRET, shared_bytes=sizes[0])
        gateway = replace(GATEWAY, shared_bytes=sizes[1])
        async with serving(encode, own) as server, linked(server, gateway) as link:
            assert link._pipe._found.ring is None
            assert torch.equal(await ask(link, encode_request(3)), expected(3))

    run(main())


def _certificates(folder: Path) -> None:
    """One authority, and a server's and a client's certificate of it."""
    lines = [
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=ca -keyout ca.key -out ca.pem",
        "req -newkey rsa:2048 -nodes -subj /CN=peer -addext subjectAltName=IP:127.0.0.1 "
        "-keyout peer.key -out peer.csr",
        "x509 -req -in peer.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 "
        "-copy_extensions copy -out peer.pem",
    ]
    for line in lines:
        subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)


def test_certificates_of_one_authority_are_enough_and_needed(tmp_path: Path) -> None:
    _certificates(tmp_path)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.pem")
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    stranger = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    for context in (server_side, client_side):
        context.load_cert_chain(tmp_path / "peer.pem", tmp_path / "peer.key")
    own = Identity(replace(PROFILE, role="vision"), FINGERPRINT)
    gateway = replace(GATEWAY, secret=None)

    async def main() -> None:
        async with serving(encode, own, context=server_side) as server:
            link = await open_link("127.0.0.1", server.port, gateway, FAST, client_side)
            assert torch.equal(await ask(link, encode_request(3)), expected(3))
            await link.close()
            asked = open_link("127.0.0.1", server.port, gateway, FAST, stranger)
            assert (await refusal(asked)).code is NackCode.LOST

    run(main())
