"""Which server gets a request, what happens while one is away, and what the figures tell."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
from fake_servers import (
    FAST,
    GATEWAY,
    FakeLanguage,
    FakeVision,
    decoupled,
    expected_text,
    identity,
    make_request,
    run,
    serve,
    until,
)
from prometheus_client import CollectorRegistry, generate_latest

from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.dvd.engine import DecoupledEngine
from internvl35.serve.dvd.figures import PeerFigures
from internvl35.serve.dvd.peers import Peer, PeerAddress, PeerSettings, Pool
from internvl35.serve.frames import NackCode, WireError


async def text_of(engine: DecoupledEngine, *pictures: Any) -> str:
    found = engine.stream(make_request(*pictures), SamplingSettings(), flash=FlashSettings("off"))
    return "".join([update.text async for update in found])


def test_servers_are_named_once_and_settings_are_possible() -> None:
    address = PeerAddress("eye", 7)
    for wrong in ((), (address, address)):
        with pytest.raises(ConfigError, match="each once"):
            Pool("vision", wrong, GATEWAY)
    for change in ({"patience_s": 0}, {"max_attempts": 0}, {"spread_tiles": -1}):
        with pytest.raises(ConfigError, match=next(iter(change))):
            PeerSettings(**change)


def test_the_shortest_queue_is_next_and_what_was_seen_before_goes_where_it_went() -> None:
    async def main() -> None:
        vision = [FakeVision() for _ in range(3)]
        async with decoupled(vision, [FakeLanguage()]) as (engine, _), AsyncExitStack() as stack:
            pool = engine.servers.vision

            async def borrow(count: int, key: bytes = b"", avoid: Peer | None = None) -> Peer:
                return await stack.enter_async_context(pool.borrow(count, key, avoid))

            first, second = await borrow(9), await borrow(5)
            third = await borrow(1)
            assert {first, second, third} == set(pool.peers)
            assert await borrow(3) is third
            assert await borrow(3) is third  # 4 against 9 and 5
            assert await borrow(1, avoid=second) is third  # 7 against 9
            assert [first.queue, second.queue, third.queue] == [9, 5, 8]
            keys = [b"%d" % number for number in range(60)]
            homes = [pool._choose(key, None) for key in keys]
            assert set(homes) == set(pool.peers)
            assert [pool._choose(key, None) for key in keys] == homes
            moved = homes[0]
            assert moved is not None
            await stack.enter_async_context(pool.borrow(1))
            moved.num_units += FAST.spread_tiles + 9
            assert pool._choose(keys[0], None) is not moved
            moved.num_units -= FAST.spread_tiles + 9

    run(main())


def test_no_server_gets_more_than_it_takes_and_who_came_first_goes_first() -> None:
    async def main() -> None:
        async with decoupled([FakeVision()], [FakeLanguage()], max_requests=2) as (engine, _):
            pool = engine.servers.vision
            order: list[int] = []

            async def hold(number: int) -> None:
                async with pool.borrow(1) as peer:
                    assert peer.num_requests <= 2
                    order.append(number)
                    await asyncio.sleep(0.01)

            await asyncio.gather(*(hold(number) for number in range(12)))
            assert order == [*range(12)]
            assert pool.num_waiting == 0

    run(main())


def test_a_busy_server_is_left_alone_for_a_while() -> None:
    async def main() -> None:
        async with decoupled([FakeVision(), FakeVision()], [FakeLanguage()]) as (engine, _):
            pool = engine.servers.vision
            busy, free = pool.peers
            pool.note_failure(busy, WireError(NackCode.BUSY, "full", 0.3))
            assert not busy.has_room
            for _ in range(8):
                async with pool.borrow(1) as peer:
                    assert peer is free
            await until(lambda: busy.has_room)

    run(main())


def test_a_server_that_comes_back_is_used_again_and_those_who_wait_are_answered() -> None:
    """One port, three servers one after the other, a request always under way."""

    async def main() -> None:
        patient = replace(FAST, patience_s=20.0)
        async with decoupled([FakeVision()], [FakeLanguage()], patient) as (engine, servers):
            eye, port = servers[0], servers[0].port
            for number in range(3):
                await eye.close()
                asking = asyncio.create_task(text_of(engine, [number + 20]))
                await until(lambda: not engine.servers.is_up)
                assert not asking.done()
                eye = await serve(FakeVision(), identity("vision", "new"), port)
                assert await asking == expected_text([number + 20])
            await eye.close()

    run(main())


def test_a_draining_server_ends_its_work_and_gets_nothing_new() -> None:
    hold = asyncio.Event()

    async def wait(opening: Any, channel: Any) -> None:
        await hold.wait()

    async def main() -> None:
        vision = [FakeVision(before=wait), FakeVision()]
        async with decoupled(vision, [FakeLanguage()]) as (engine, servers):
            first = engine.servers.vision.peers[0]
            engine.servers.vision.peers[1].busy_until = 1e12
            asking = asyncio.create_task(text_of(engine, [5]))
            await until(lambda: vision[0].num_begun)
            engine.servers.vision.peers[1].busy_until = 0
            draining = asyncio.create_task(servers[0].drain(10))
            await until(lambda: first.state == "draining")
            assert await text_of(engine, [6]) == expected_text([6])
            hold.set()
            assert await asking == expected_text([5])
            assert await draining == 0
            assert [one.num_done for one in vision] == [1, 1]

    run(main())


def test_a_server_of_the_other_kind_is_not_used() -> None:
    async def main() -> None:
        mouth = await serve(FakeLanguage(), identity("language", "mouth"))
        pool = Pool("vision", [PeerAddress("127.0.0.1", mouth.port)], GATEWAY, FAST)
        await pool.start()
        await until(lambda: pool.peers[0].error)
        assert "is a language server; needed here: a vision server" in pool.peers[0].error
        assert not pool.is_up
        await pool.close()
        await mouth.close()

    run(main())


def test_figures_tell_who_is_there() -> None:
    async def main() -> None:
        async with decoupled([FakeVision()], [FakeLanguage()]) as (engine, servers):
            registry = CollectorRegistry()
            registry.register(PeerFigures(engine.servers.pools))
            eye, mouth = (f"127.0.0.1:{server.port}" for server in servers)
            engine.servers.vision.peers[0].num_failures = 2
            async with engine.servers.vision.borrow(13):
                text = generate_latest(registry).decode()
            for line in (
                f'server_up{{role="vision",server="{eye}"}} 1.0',
                f'server_up{{role="language",server="{mouth}"}} 1.0',
                f'server_requests{{role="vision",server="{eye}"}} 1.0',
                f'server_queue{{role="vision",server="{eye}"}} 13.0',
                f'server_failures_total{{role="vision",server="{eye}"}} 2.0',
                'waiting_for_server{role="language"} 0.0',
            ):
                assert f"internvl35_{line}\n" in text
            await servers[1].close()
            await until(lambda: not engine.servers.is_up)
            down = f'internvl35_server_up{{role="language",server="{mouth}"}} 0.0'
            assert down in generate_latest(registry).decode()

    run(main())


def test_servers_come_and_go_and_who_goes_finishes_what_it_has() -> None:
    async def main() -> None:
        vision, language = [FakeVision(), FakeVision()], FakeLanguage()
        async with decoupled(vision[:1], [language]) as (engine, servers), AsyncExitStack() as own:
            pool = engine.servers.vision
            old = pool.peers[0].address
            second = await serve(vision[1], identity("vision", "second"))
            own.push_async_callback(second.close)
            new = PeerAddress("127.0.0.1", second.port)
            pool.follow([new, new])
            assert [peer.address for peer in pool.peers] == [old, new]
            await until(lambda: all(peer.state == "up" for peer in pool.peers))
            pool.follow([new])
            assert len(pool.peers) == 2  # the old one is connected, and ends when it wants to
            await servers[0].close()
            await until(lambda: pool.peers[0].state == "down")
            pool.follow([new])
            assert [peer.address for peer in pool.peers] == [new]
            assert await text_of(engine, [3, 4]) == expected_text([3, 4], policy="off")
            pool.follow([])
            assert [peer.address for peer in pool.peers] == [new]

    run(main())
