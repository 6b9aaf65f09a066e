"""An engine over links: what it sends, what it hands out, and what it tries again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from dataclasses import replace
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_fleet import LevelChat, LevelLoader
from fake_servers import (
    CONFIG,
    FAST,
    GATEWAY,
    FakeLanguage,
    FakeVision,
    decoupled,
    expected_text,
    is_few,
    make_request,
)

from internvl35.errors import ConfigError, InternVLError, PromptError, ServerError
from internvl35.generate.answers import Completion
from internvl35.generate.flash import FlashPolicy, FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.dvd.answering import DecoupledAnswerer
from internvl35.serve.dvd.engine import DecoupledEngine, Servers
from internvl35.serve.dvd.peers import PeerAddress, Pool
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.messages import to_tensor
from internvl35.serve.refusals import RefusedError

GREEDY = SamplingSettings()
ROUTED = FlashSettings("released")
OFF = FlashSettings("off")


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await main
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert left == set()

    asyncio.run(bounded())


async def answer(
    engine: DecoupledEngine, request: Request, flash: FlashSettings = OFF, **options: Any
) -> Completion:
    """Read all updates and check that they join to the completion."""
    texts: dict[int, str] = {}
    completion = None
    async for update in engine.stream(
        request, options.pop("sampling", GREEDY), flash=flash, **options
    ):
        assert completion is None, "an update after the last"
        texts[update.sample] = texts.get(update.sample, "") + update.text
        completion = update.completion
    assert completion is not None
    assert [sample.text for sample in completion.samples] == [texts[n] for n in sorted(texts)]
    return completion


def text_of(completion: Completion) -> str:
    assert {sample.finish_reason for sample in completion.samples} == {"stop"}
    assert len({sample.text for sample in completion.samples}) == 1
    return completion.samples[0].text


class Fails:
    """Raises in front of the first so many requests, or messages."""

    def __init__(self, count: int, code: NackCode = NackCode.INTERNAL, after: int = 0) -> None:
        self.left, self.code, self.after = count, code, after

    async def __call__(self, opening: Any, channel: Any) -> None:
        self.after -= 1
        if self.after < 0 and self.left:
            self.left -= 1
            raise WireError(self.code, "planned", 0.05 if self.code is NackCode.BUSY else None)


PICTURES = ([3, 4, 5], [6], [7, 8, 9, 10, 11, 12])


@pytest.mark.parametrize("flash", [OFF, ROUTED, FlashSettings("all")])
@pytest.mark.parametrize("can_restart", [False, True])
def test_visual_tokens_reach_their_places(flash: FlashSettings, can_restart: bool) -> None:
    async def main() -> None:
        vision = [FakeVision(), FakeVision()]
        async with decoupled(vision, [FakeLanguage()]) as (engine, _):
            engine = replace(engine, can_restart=can_restart)
            found = await answer(engine, make_request(*PICTURES), flash, request_id="mine")
            assert text_of(found) == expected_text(*PICTURES, policy=flash.policy)
            assert (found.request_id, found.num_cached_tokens) == ("mine", 3)
            levels = [level for picture in PICTURES for level in picture]
            choices = tuple(is_few(level, flash.policy) for level in levels)
            routing = found.request.routing
            assert (routing is None) == (flash is OFF)
            if routing is not None:
                scores = tuple(0.9 if choice else 0.1 for choice in choices)
                assert routing.is_compressed == choices
                assert routing.scores == (scores if flash is ROUTED else None)
                dropped = 3 * sum(choices)
                assert len(found.request.prompt) == len(make_request(*PICTURES).prompt) - dropped
            assert text_of(await answer(engine, make_request(), flash)) == expected_text()

    run(main())


def test_an_adapter_is_asked_for_by_the_name_of_a_model() -> None:
    asked: list[str | None] = []

    async def note(opening: Any, channel: Any) -> None:
        asked.append(opening.adapter)

    async def main() -> None:
        language = FakeLanguage(before=note)
        async with decoupled([FakeVision()], [language]) as (engine, _):
            engine = replace(engine, adapters=("poet", "clerk"))
            arguments = [LevelChat(), engine, LevelLoader(), None, None, GatewaySettings()]
            answerer: Any = DecoupledAnswerer(*arguments, ("tiny",))  # type: ignore[arg-type]
            assert answerer.names == ("tiny", "poet", "clerk")
            for model in ("poet", None, "clerk", "tiny"):
                call: Any = SimpleNamespace(call=SimpleNamespace(model=model))
                for is_whole in (True, False):
                    chosen = answerer.engine_for(call, is_whole=is_whole)
                    assert chosen.can_restart == is_whole
                    assert text_of(await answer(chosen, make_request([5]))) == expected_text([5])
            assert asked == ["poet"] * 2 + [None] * 2 + ["clerk"] * 2 + [None] * 2
            with pytest.raises(ConfigError, match="an adapter has the model's name poet"):
                DecoupledAnswerer(*arguments, ("poet",))  # type: ignore[arg-type]

    run(main())


def test_lists_are_answered_outside_of_a_loop_as_often_as_is_wished() -> None:
    """By servers in another thread's loop."""
    ports: SimpleQueue[list[int]] = SimpleQueue()
    end = threading.Event()

    async def serve() -> None:
        async with decoupled([FakeVision()], [FakeLanguage(before=Fails(1))]) as (_, servers):
            ports.put([server.port for server in servers])
            await asyncio.to_thread(end.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    eye, mouth = (PeerAddress("127.0.0.1", port) for port in ports.get())
    engine = DecoupledEngine(
        Servers(Pool("vision", [eye], GATEWAY, FAST), Pool("language", [mouth], GATEWAY, FAST)),
        CONFIG,  # type: ignore[arg-type]
    )
    try:
        for _ in range(2):
            requests = [make_request([level]) for level in range(20, 24)]
            found = engine.generate(requests, GREEDY, flash=OFF)
            assert [text_of(one) for one in found] == [
                expected_text([level]) for level in range(20, 24)
            ]
    finally:
        end.set()
        thread.join()


def test_several_answers_come_side_by_side() -> None:
    async def main() -> None:
        async with decoupled([FakeVision()], [FakeLanguage()]) as (engine, _):
            three = replace(GREEDY, n=3, temperature=1.0)
            found = await answer(engine, make_request([5, 6]), sampling=three)
            assert len(found.samples) == 3
            assert text_of(found) == expected_text([5, 6])

    run(main())


def test_features_are_on_their_way_before_the_last_tile_is_encoded() -> None:
    """The vision server gives its second group away only when the language server has the first."""
    has_first = asyncio.Event()
    num_groups = 0

    class Waits(FakeLanguage):
        async def work(self, opening: Any, channel: Any) -> None:
            class Tells:
                request_id = channel.request_id
                send = channel.send

                async def receive(self) -> Any:
                    message = await channel.receive()
                    has_first.set()
                    return message

            await super().work(opening, Tells())

    async def hold(opening: Any, channel: Any) -> None:
        nonlocal num_groups
        num_groups += 1
        if num_groups == 2:
            await has_first.wait()

    async def main() -> None:
        async with decoupled([FakeVision(each=hold)], [Waits()]) as (engine, _):
            levels = list(range(20, 29))
            found = await answer(engine, make_request(levels))
            assert text_of(found) == expected_text(levels)
            assert num_groups == 3

    run(main())


@pytest.mark.parametrize("code", [NackCode.INTERNAL, NackCode.BUSY, NackCode.EXPIRED])
@pytest.mark.parametrize("flash", [OFF, ROUTED])
def test_what_fails_in_the_vision_stage_is_encoded_again(
    code: NackCode, flash: FlashSettings
) -> None:
    async def main() -> None:
        vision = [FakeVision(each=Fails(1, code, after=1)) for _ in range(2)]
        async with decoupled(vision, [FakeLanguage()]) as (engine, _):
            found = await answer(engine, make_request(*PICTURES), flash)
            assert text_of(found) == expected_text(*PICTURES, policy=flash.policy)
            assert sum(one.num_begun for one in vision) > sum(one.num_done for one in vision) == 1

    run(main())


class Sees(FakeVision):
    """Notes the tiles that it is sent, by attempt; the first attempt fails at one of its sends."""

    def __init__(self, seen: list[list[int]], fails_at: int) -> None:
        super().__init__()
        self.seen, self.fails_at = seen, fails_at

    async def work(self, opening: Any, channel: Any) -> None:
        levels: list[int] = []
        self.seen.append(levels)
        num_sent = 0

        class Watched:
            async def receive(_) -> Any:
                message = await channel.receive()
                levels.extend(to_tensor(message.values).flatten(1)[:, 0].tolist())
                return message

            async def send(_, message: Any) -> None:
                nonlocal num_sent
                num_sent += 1
                if len(self.seen) == 1 and num_sent == self.fails_at:
                    raise WireError(NackCode.INTERNAL, "planned")
                await channel.send(message)

        await super().work(opening, Watched())


@pytest.mark.parametrize(
    ("policy", "fails_at", "again"),
    [
        ("off", 2, [24, 25, 26, 27, 28]),
        ("all", 3, [28]),
        ("absolute", 3, [27, 28]),  # of the second picture a tile is missing
        ("absolute", 2, [23, 24, 25, 26, 27, 28]),
        ("released", 3, list(range(20, 29))),  # chosen among all tiles
        *((policy, 4, None) for policy in ("off", "all", "released", "absolute")),
    ],
)
def test_only_what_is_missing_is_encoded_again(
    policy: FlashPolicy, fails_at: int, again: list[int] | None
) -> None:
    pictures = ([20, 21, 22], [23, 24, 25, 26], [27, 28])
    seen: list[list[int]] = []

    async def main() -> None:
        vision = [Sees(seen, fails_at) for _ in range(2)]
        async with decoupled(vision, [FakeLanguage()]) as (engine, _):
            found = await answer(engine, make_request(*pictures), FlashSettings(policy))
            assert text_of(found) == expected_text(*pictures, policy=policy)
            if policy in ("absolute", "released"):
                assert found.request.routing is not None
                assert found.request.routing.is_compressed == tuple(
                    level % 2 == 1 for level in range(20, 29)
                )

    run(main())
    assert seen[0][:4] == [20, 21, 22, 23]
    assert seen[1:] == ([] if again is None else [again])


def test_what_fails_before_a_word_was_told_is_answered_by_another() -> None:
    async def main() -> None:
        language = [FakeLanguage(before=Fails(1)) for _ in range(2)]
        async with decoupled([FakeVision()], language) as (engine, _):
            found = await answer(engine, make_request([5, 6, 7]))
            assert text_of(found) == expected_text([5, 6, 7])
            assert sum(one.num_done for one in language) == 1

    run(main())


def test_an_answer_of_which_a_part_was_told_breaks_off_unless_it_can_begin_anew() -> None:
    async def main() -> None:
        language = [FakeLanguage(each=Fails(1, after=2))]
        async with decoupled([FakeVision()], language) as (engine, _):
            with pytest.raises(RefusedError, match="broke off: a server was lost") as caught:
                await answer(engine, make_request([5]))
            assert (caught.value.status, caught.value.code) == (503, "answer_lost")
            assert language[0].num_begun == 1
            language[0].each = Fails(2, after=2)
            found = await answer(replace(engine, can_restart=True), make_request([5]))
            assert text_of(found) == expected_text([5])
            assert language[0].num_begun == 4

    run(main())


@pytest.mark.parametrize("stage", ["vision", "language"])
@pytest.mark.parametrize(
    ("code", "kind", "num_tries"),
    [(NackCode.WRONG_REQUEST, PromptError, 1), (NackCode.TOO_LARGE, PromptError, 1),
     (NackCode.INTERNAL, ServerError, FAST.max_attempts)],
)  # fmt: skip
def test_what_cannot_be_answered_is_an_error_and_not_tried_for_ever(
    stage: str, code: NackCode, kind: type[InternVLError], num_tries: int
) -> None:
    async def main() -> None:
        broken = Fails(100, code)
        vision = FakeVision(before=broken if stage == "vision" else None)
        language = FakeLanguage(before=broken if stage == "language" else None)
        async with decoupled([vision], [language]) as (engine, _):
            for can_restart in (False, True):
                with pytest.raises(kind, match=r"planned$") as caught:
                    await answer(replace(engine, can_restart=can_restart), make_request([5]))
                assert not isinstance(caught.value, WireError)
            assert (vision if stage == "vision" else language).num_begun == 2 * num_tries

    run(main())


def test_without_servers_requests_are_refused_after_some_patience() -> None:
    async def main() -> None:
        short = replace(FAST, patience_s=0.2)
        async with decoupled([FakeVision()], [FakeLanguage()], short) as (engine, servers):
            await servers[1].close()
            with pytest.raises(ServerError, match="no language server has been there"):
                await answer(engine, make_request([5]))
            assert not engine.servers.is_up

    run(main())


def test_leaving_early_cancels_both_stages() -> None:
    async def wait(opening: Any, channel: Any) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with decoupled([FakeVision(each=wait)], [FakeLanguage()]) as (engine, servers):
            asking = asyncio.create_task(answer(engine, make_request([5] * 9)))
            while any(server.num_requests != 1 for server in servers):
                await asyncio.sleep(0.01)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            while any(server.num_requests for server in servers):
                await asyncio.sleep(0.01)
            for pool in engine.servers.pools:
                assert [(peer.num_requests, peer.num_units) for peer in pool.peers] == [(0, 0)]

    run(main())


def test_tiles_that_are_normalised_are_refused() -> None:
    async def main() -> None:
        async with decoupled([FakeVision()], [FakeLanguage()]) as (engine, _):
            request = make_request([5])
            assert request.pixel_values is not None
            with pytest.raises(ValueError, match="needed: levels in uint8"):
                await answer(engine, Request(request.prompt, request.pixel_values.float()))
            features = torch.zeros(4, 8)
            with pytest.raises(ValueError, match="needed: tiles as levels"):
                await answer(engine, Request(request.prompt, image_features=features))

    run(main())


@pytest.mark.parametrize("role", ["vision", "language"])
def test_a_server_that_stands_still_loses_its_requests_to_another(role: str) -> None:
    """Though it answers pings; it gets nothing more until work goes on."""

    async def wait(opening: Any, channel: Any) -> None:
        still.load = replace(still.load, stalled_s=121)
        await asyncio.Event().wait()

    kind = FakeVision if role == "vision" else FakeLanguage
    still = kind(before=wait)
    servers = {"vision": [FakeVision()], "language": [FakeLanguage()]}
    servers[role].insert(0, still)

    async def main() -> None:
        even = replace(FAST, spread_tiles=0, spread_requests=0)
        async with decoupled(**servers, settings=even) as (engine, _):
            pictures = [[level] for level in range(20, 32)]
            found = await asyncio.gather(
                *(answer(engine, make_request(levels)) for levels in pictures)
            )
            assert [text_of(one) for one in found] == [expected_text(p) for p in pictures]
            num_begun = still.num_begun
            assert num_begun > 0
            peer = getattr(engine.servers, role).peers[0]
            assert peer.state == "down"
            await asyncio.sleep(3 * FAST.retry_most_s)  # it is tried again, and still stands still
            assert peer.error == f"{role} 0 has stood still for 121 s"
            await asyncio.gather(*(answer(engine, make_request(levels)) for levels in pictures))
            assert still.num_begun == num_begun
            still.load = replace(still.load, stalled_s=0)
            while peer.state != "up":
                await asyncio.sleep(0.01)

    run(main())
