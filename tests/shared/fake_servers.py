"""Vision and language servers without networks, and what a gateway says to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch

from internvl35.data.prompt import ImageSpan, Prompt
from internvl35.generate.request import Request
from internvl35.serve.dvd.engine import DecoupledEngine, Servers
from internvl35.serve.dvd.peers import PeerAddress, PeerSettings, Pool
from internvl35.serve.frame_pipe import LinkSettings
from internvl35.serve.handshake import Identity, make_fingerprint
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
    Role,
    Tiles,
    to_block,
    to_tensor,
)

SIDE, WIDTH, WHOLE, FEW, PLACE = 4, 8, 4, 1, 7
SECRET = b"0123456789abcdef0123456789abcdef"
PROFILE = Profile("gateway", "gate", SIDE, WHOLE, FEW, WIDTH, image_token_id=PLACE)
GATEWAY = Identity(PROFILE, make_fingerprint(b"fake"), SECRET)
FAST = PeerSettings(
    retry_first_s=0.02, retry_most_s=0.2, patience_s=1.0,
    link=LinkSettings(ping_every_s=0.05, dead_after_s=1.0, lease_s=2.0),
)  # fmt: skip
CONFIG = SimpleNamespace(
    flash_mode=True, tokens_per_tile=WHOLE, compressed_tokens_per_tile=FEW,
    flash_absolute_threshold=0.5, flash_relative_threshold=0.0,
)  # fmt: skip
END = 2

Step = Callable[[Encode | Generate, Channel], Awaitable[None]]


def identity(role: Role, name: str, **limits: int) -> Identity:
    """What a fake server says about itself."""
    return replace(GATEWAY, profile=replace(PROFILE, role=role, name=name, **limits))


class FakeServer:
    """Counts what it does; ``before`` runs in front of each request, ``each`` of each message."""

    def __init__(self, before: Step | None = None, each: Step | None = None) -> None:
        self.before, self.each = before, each
        self.num_begun = self.num_done = 0
        self.load = Load(0, 0, 0)

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        self.num_begun += 1
        if self.before is not None:
            await self.before(opening, channel)
        await self.work(opening, channel)
        self.num_done += 1

    async def work(self, opening: Any, channel: Channel) -> None:
        raise NotImplementedError


class FakeVision(FakeServer):
    """Every number of a tile's visual tokens is its first level; odd levels are compressed."""

    async def work(self, opening: Any, channel: Channel) -> None:
        is_routed = opening.flash is not None and opening.flash.policy not in ("off", "all")
        num_left, found = sum(opening.tiles), []
        while num_left:
            tiles = await channel.receive()
            assert isinstance(tiles, Tiles)
            num_left -= tiles.num_tiles
            found.append(tiles)
            if not is_routed:
                await self.send(opening, channel, tiles)
        for tiles in found if is_routed else ():
            await self.send(opening, channel, tiles)
        await channel.send(Encoded(opening.request_id, 0, 0.0))

    async def send(self, opening: Any, channel: Channel, tiles: Tiles) -> None:
        if self.each is not None:
            await self.each(opening, channel)
        levels = to_tensor(tiles.values).flatten(1)[:, 0]
        policy = "off" if opening.flash is None else opening.flash.policy
        choices = tuple(is_few(int(level), policy) for level in levels)
        counts = torch.tensor([FEW if choice else WHOLE for choice in choices])
        values = levels.repeat_interleave(counts)[:, None].expand(-1, WIDTH).to(torch.bfloat16)
        scores = tuple(0.9 if choice else 0.1 for choice in choices)
        await channel.send(
            Features(
                opening.request_id, tiles.first_tile, tiles.num_tiles, choices,
                scores if policy == "released" else None, to_block(values),
            )
        )  # fmt: skip


class FakeLanguage(FakeServer):
    """Says the prompt's ids in order, with the levels of its visual tokens in their places."""

    async def work(self, opening: Any, channel: Channel) -> None:
        ids = to_tensor(opening.values).tolist()
        rows: dict[int, list[int]] = {}
        while len(rows) < len(opening.is_compressed):
            features = await channel.receive()
            assert isinstance(features, Features)
            values = to_tensor(features.values)
            assert bool((values == values[:, :1]).all())
            start = 0
            for place, choice in enumerate(features.is_compressed):
                stop = start + (FEW if choice else WHOLE)
                rows[features.first_tile + place] = [int(v) for v in values[start:stop, 0]]
                start = stop
        seen = iter([level for tile in sorted(rows) for level in rows[tile]])
        said = [next(seen) if token == PLACE else token for token in ids]
        for sample in range(opening.sampling.n):
            for token in said:
                if self.each is not None:
                    await self.each(opening, channel)
                await channel.send(
                    Progress(opening.request_id, sample, (token,), f"{token} ", None, None, None)
                )
            await channel.send(Progress(opening.request_id, sample, (END,), "", None, "stop", None))
        await channel.send(Finished(opening.request_id, 3, 0.1, 0.2))


def is_few(level: int, policy: str) -> bool:
    """Which tiles are compressed."""
    return policy == "all" or (policy != "off" and level % 2 == 1)


def make_request(*pictures: Sequence[int], text: Sequence[int] = (11, 12)) -> Request:
    """A prompt of pictures, each given by the levels of its tiles, and then a text."""
    ids: list[int] = [9]
    spans, levels = [], []
    for picture in pictures:
        spans.append(ImageSpan(len(ids), WHOLE * len(picture), len(picture)))
        ids += [PLACE] * (WHOLE * len(picture))
        levels += picture
    ids += text
    prompt = Prompt(tuple(ids), tuple(spans), (False,) * len(ids))
    if not levels:
        return Request(prompt)
    tiles = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None]
    return Request(prompt, tiles.expand(-1, 3, SIDE, SIDE))


def expected_text(
    *pictures: Sequence[int], text: Sequence[int] = (11, 12), policy: str = "off"
) -> str:
    """What :class:`FakeLanguage` says about :func:`make_request`."""
    said = [9]
    for level in [level for picture in pictures for level in picture]:
        said += [level] * (FEW if is_few(level, policy) else WHOLE)
    return "".join(f"{token} " for token in (*said, *text))


async def serve(
    service: FakeServer, own: Identity, port: int = 0, settings: PeerSettings = FAST
) -> LinkServer:
    """Start a server of ours in this loop."""
    server = LinkServer(service, own, ListenSettings(port=port), settings.link)
    await server.start()
    return server


@asynccontextmanager
async def decoupled(
    vision: Sequence[FakeServer],
    language: Sequence[FakeServer],
    settings: PeerSettings = FAST,
    **limits: int,
) -> AsyncIterator[tuple[DecoupledEngine, list[LinkServer]]]:
    """An engine, its servers in this loop, vision first."""
    async with AsyncExitStack() as stack:
        servers = []
        for role, services in (("vision", vision), ("language", language)):
            for number, service in enumerate(services):
                own = identity(role, f"{role} {number}", **limits)  # type: ignore[arg-type]
                servers.append(await serve(service, own))
                stack.push_async_callback(servers[-1].close)
        addresses = [PeerAddress("127.0.0.1", server.port) for server in servers]
        pools = Servers(
            Pool("vision", addresses[: len(vision)], GATEWAY, settings),
            Pool("language", addresses[len(vision) :], GATEWAY, settings),
        )
        await pools.start()
        stack.push_async_callback(pools.close)
        async with asyncio.timeout(10):
            while not all(peer.state == "up" for pool in pools.pools for peer in pool.peers):
                await asyncio.sleep(0.01)
        yield DecoupledEngine(pools, CONFIG), servers  # type: ignore[arg-type]


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test whose end is bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main

    asyncio.run(bounded())


async def until(is_so: Any) -> None:
    """Wait until something is so; bounded by :func:`run`."""
    while not is_so():
        await asyncio.sleep(0.01)
