"""What a vision server sends is what the network gives, bit for bit, whatever else it works on."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flash_models import FULL, SHORT, TILE, make_flash_model
from torch import Tensor

from internvl35.data.tiles import normalize_levels
from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ConfigError, ServerError
from internvl35.generate import vision_thread
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import route
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.handshake import Identity, make_fingerprint
from internvl35.serve.link import Link, open_link
from internvl35.serve.link_server import LinkServer
from internvl35.serve.messages import (
    Encode,
    Encoded,
    Features,
    Load,
    Profile,
    Tiles,
    new_request_id,
    to_block,
    to_tensor,
)
from internvl35.serve.vision.encoding_line import EncodingLine, TileGroup
from internvl35.serve.vision.service import VisionService
from internvl35.serve.vision.settings import VisionServerSettings

WIDTH = 48
PROFILE = Profile("gateway", "gate", TILE, FULL, SHORT, WIDTH, 635, "f32")
GATEWAY = Identity(PROFILE, make_fingerprint(b"same"))
VISION = replace(GATEWAY, profile=replace(PROFILE, role="vision", name="eye"))
OFF, ALL, RELEASED, ABSOLUTE = map(FlashSettings, ("off", "all", "released", "absolute"))


@pytest.fixture(scope="module")
def model():
    return make_flash_model()


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 60))


def hold_steps(
    line: EncodingLine, monkeypatch: pytest.MonkeyPatch
) -> tuple[threading.Semaphore, threading.Semaphore]:
    """Let each step of a line wait for a permit; tells of each that is about to."""
    entered, permits = threading.Semaphore(0), threading.Semaphore(0)
    step = line.thread._encoder.step

    def wait() -> Any:
        entered.release()
        assert permits.acquire(timeout=20)
        return step()

    monkeypatch.setattr(line.thread._encoder, "step", wait)
    return entered, permits


def draw_tiles(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, TILE, TILE, 3)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@asynccontextmanager
async def serving(model, **settings: Any) -> AsyncIterator[tuple[VisionService, Link]]:
    own = VisionServerSettings(**settings)
    with closing(VisionService(model, own, dtype=torch.float32)) as service:
        server = LinkServer(service, VISION)
        await server.start()
        link = await open_link("127.0.0.1", server.port, GATEWAY)
        try:
            yield service, link
        finally:
            await link.close()
            await server.close()
    assert service.load == Load(0, 0, 0)


async def ask(
    link: Link,
    levels: Tensor,
    tiles: Sequence[int],
    flash: FlashSettings | None = None,
    *,
    groups: Sequence[range] | None = None,
    salt: str = "",
    priority: int = 0,
) -> tuple[dict[int, Tensor], dict[int, bool], dict[int, float], Encoded]:
    """Send tiles in groups; return what came back, tile by tile."""
    request_id = new_request_id()
    stream = await link.open(Encode(request_id, 0, tuple(tiles), flash, salt, priority))
    for group in groups or [range(len(levels))]:
        values = to_block(levels[group.start : group.stop])
        await stream.send(Tiles(request_id, group.start, len(group), values))
    features: dict[int, Tensor] = {}
    choices: dict[int, bool] = {}
    scores: dict[int, float] = {}
    while True:
        message = await stream.receive()
        if isinstance(message, Encoded):
            return features, choices, scores, message
        assert isinstance(message, Features)
        sizes = [SHORT if choice else FULL for choice in message.is_compressed]
        parts = to_tensor(message.values).split(sizes)
        for number, part in enumerate(parts):
            tile = message.first_tile + number
            features[tile], choices[tile] = part, message.is_compressed[number]
            if message.scores is not None:
                scores[tile] = message.scores[number]


def expected(model, levels: Tensor, tiles: Sequence[int], flash: FlashSettings) -> Request:
    spans, start = [], 0
    for count in tiles:
        spans.append(ImageSpan(start, count * FULL, count))
        start += count * FULL
    prompt = Prompt((635,) * start, tuple(spans), (False,) * start)
    pixels = normalize_levels(levels.permute(0, 3, 1, 2).numpy())
    (routed,) = route(model, [Request(prompt, pixels)], flash)
    if routed.pixel_values is None:
        return routed
    with torch.inference_mode():
        features = model.get_image_features(routed.pixel_values).flatten(0, 1)
    return Request(prompt, image_features=features)


def joined(features: dict[int, Tensor]) -> Tensor:
    return torch.cat([features[tile] for tile in sorted(features)])


@pytest.mark.parametrize("flash", [None, OFF, ALL, RELEASED, ABSOLUTE], ids=str)
def test_visual_tokens_are_those_of_the_network_bit_for_bit(model, flash) -> None:
    tiles = (5, 1, 3)
    levels = draw_tiles(9)
    whole = expected(model, levels, tiles, flash or RELEASED)

    async def main() -> None:
        async with serving(model) as (_, link):
            features, choices, scores, end = await ask(link, levels, tiles, flash)
            assert torch.equal(joined(features), whole.image_features)
            assert end.num_cached_tiles == 0
            assert end.seconds > 0
            if whole.routing is None:
                assert not any(choices.values())
                assert scores == {}
            else:
                assert tuple(choices[tile] for tile in range(9)) == whole.routing.is_compressed
                assert tuple(scores[tile] for tile in sorted(scores)) == (
                    whole.routing.scores or ()
                )
            again = await ask(link, levels, tiles, flash)
            assert torch.equal(joined(again[0]), whole.image_features)
            assert again[3].num_cached_tiles == 9

    run(main())


@pytest.mark.parametrize("flash", [ALL, RELEASED, ABSOLUTE], ids=str)
def test_choices_depend_neither_on_the_order_of_tiles_nor_on_other_requests(model, flash) -> None:
    tiles = (4, 2, 3)
    levels = draw_tiles(9, 1)
    whole = expected(model, levels, tiles, flash)
    orders = [
        [range(6, 9), range(5), range(5, 6)],
        [range(tile, tile + 1) for tile in reversed(range(9))],
        [range(1), range(1, 9)],
    ]

    async def main() -> None:
        async with serving(model, feature_cache_mib=0) as (_, link):
            others = [ask(link, draw_tiles(7, seed), (7,), None) for seed in (5, 6)]
            asked = [ask(link, levels, tiles, flash, groups=groups) for groups in orders]
            answers = await asyncio.gather(*others, *asked)
            for features, choices, _, _ in answers[2:]:
                assert torch.equal(joined(features), whole.image_features)
                assert [choices[tile] for tile in range(9)] == [*whole.routing.is_compressed]

    run(main())


def test_without_compression_a_group_comes_back_before_the_next_is_sent(model) -> None:
    levels = draw_tiles(4, 2)

    async def main() -> None:
        async with serving(model) as (_, link):
            request_id = new_request_id()
            stream = await link.open(Encode(request_id, 0, (4,), OFF, "", 0))
            for first in (2, 0):
                block = to_block(levels[first : first + 2])
                await stream.send(Tiles(request_id, first, 2, block))
                message = await stream.receive()
                assert isinstance(message, Features)
                assert (message.first_tile, message.num_tiles) == (first, 2)
            assert isinstance(await stream.receive(), Encoded)

    run(main())


def test_requests_of_other_salt_share_nothing(model) -> None:
    levels = draw_tiles(3, 3)

    async def main() -> None:
        async with serving(model) as (_, link):
            counts = []
            for salt in ("a", "b", "a"):
                *_, end = await ask(link, levels, (3,), OFF, salt=salt)
                counts.append(end.num_cached_tiles)
            assert counts == [0, 0, 3]

    run(main())


async def refusal(answer: Coroutine[Any, Any, Any]) -> WireError:
    with pytest.raises(WireError) as caught:
        await answer
    return caught.value


def test_a_full_server_says_when_to_come_back_and_what_is_too_large_alone_is_taken(model) -> None:
    async def main() -> None:
        async with serving(model, max_tiles_in_work=4, retry_after_s=0.25) as (service, link):
            waiting = await link.open(Encode(new_request_id(), 0, (3,), OFF, "", 0))
            while not service.load.num_requests:
                await asyncio.sleep(0.01)
            assert service.load.num_waiting_tiles == 3
            error = await refusal(ask(link, draw_tiles(2), (2,), OFF))
            assert (error.code, error.retry_after_s) == (NackCode.BUSY, 0.25)
            assert "3 tiles are in work, and the request has 2" in str(error)
            assert len((await ask(link, draw_tiles(1), (1,), OFF))[0]) == 1
            waiting.close()
            while service.load.num_requests:
                await asyncio.sleep(0.01)
            assert len((await ask(link, draw_tiles(6), (6,), OFF))[0]) == 6

    run(main())


def test_what_cannot_be_answered_anywhere_says_so(model) -> None:
    plain = make_flash_model(flash_mode=False)

    async def main() -> None:
        async with serving(plain) as (_, link):
            error = await refusal(ask(link, draw_tiles(1), (1,), ALL))
            assert error.code is NackCode.WRONG_REQUEST
            assert "the checkpoint has no router" in str(error)
            assert len((await ask(link, draw_tiles(1), (1,)))[0]) == 1

    run(main())


def test_the_most_urgent_groups_are_encoded_first(model, monkeypatch) -> None:
    order: list[int] = []
    settings = VisionServerSettings(max_tiles_per_batch=1, num_helpers=1, feature_cache_mib=0)
    service = VisionService(model, settings)
    with closing(service._line) as line:
        stage = line.thread._encoder
        entered, go_on = threading.Event(), threading.Event()
        step = stage.step

        def wait_once() -> Any:
            entered.set()
            assert go_on.wait(20)
            return step()

        monkeypatch.setattr(stage, "step", wait_once)
        futures = [line.encode(TileGroup(draw_tiles(1, 90), (1,), OFF))]
        assert entered.wait(20)
        for number, priority in enumerate((5, 0, -3, 0)):
            group = TileGroup(draw_tiles(1, number), (1,), OFF, priority=priority)
            future = line.encode(group)
            future.add_done_callback(lambda _, number=number: order.append(number))
            futures.append(future)
        cancelled = line.encode(TileGroup(draw_tiles(1, 91), (1,), OFF, priority=-9))
        assert cancelled.cancel()
        go_on.set()
        for future in futures:
            assert future.result(20).features.shape == (FULL, WIDTH)
    # there was room to make the first of them ready, whose turn comes then or one later
    assert order.index(0) < 2
    order.remove(0)
    assert order == [2, 1, 3]


def test_tiles_that_stand_still_are_told_and_those_that_go_on_are_not(model, monkeypatch) -> None:
    settings = VisionServerSettings(max_tiles_per_batch=1, feature_cache_mib=0)
    now = 100.0
    monkeypatch.setattr(vision_thread, "time", SimpleNamespace(monotonic=lambda: now))
    service = VisionService(model, settings)
    with closing(service._line) as line:
        now = 300.0
        assert service.load.stalled_s == 0  # there was no work
        entered, permits = hold_steps(line, monkeypatch)
        futures = [line.encode(TileGroup(draw_tiles(1, seed), (1,), OFF)) for seed in range(2)]
        assert entered.acquire(timeout=20)
        now = 350.0
        assert service.load.stalled_s == 50
        permits.release()
        assert entered.acquire(timeout=20)  # one tile was encoded at 350
        now = 357.0
        assert service.load.stalled_s == 7
        permits.release(100)
        for future in futures:
            future.result(20)
        now = 500.0
        assert service.load.stalled_s == 0


def test_a_group_that_is_given_up_takes_no_memory_while_others_go_on(model, monkeypatch) -> None:
    settings = VisionServerSettings(max_tiles_per_batch=1, num_helpers=1, feature_cache_mib=0)
    service = VisionService(model, settings)
    with closing(service._line) as line:
        entered, permits = hold_steps(line, monkeypatch)
        futures = [line.encode(TileGroup(draw_tiles(1, seed), (1,), OFF)) for seed in range(6)]
        assert entered.acquire(timeout=20)
        levels = draw_tiles(1, 9)
        late = line.encode(TileGroup(levels, (1,), OFF, priority=5))
        there = weakref.ref(levels)
        del levels
        assert late.cancel()
        permits.release()
        assert entered.acquire(timeout=20)  # it has seen to its orders
        del late
        gc.collect()
        assert there() is None
        permits.release(100)
        for future in futures:
            assert future.result(20).features.shape == (FULL, WIDTH)


def test_at_the_end_whoever_waits_hears_of_it_wherever_the_tiles_are(model, monkeypatch) -> None:
    settings = VisionServerSettings(max_tiles_per_batch=1, num_helpers=1, feature_cache_mib=0)
    service = VisionService(model, settings)
    line = service._line
    entered, go_on = threading.Event(), threading.Event()
    step = line.thread._encoder.step

    def wait() -> Any:
        entered.set()
        assert go_on.wait(20)
        return step()

    monkeypatch.setattr(line.thread._encoder, "step", wait)
    futures = [line.encode(TileGroup(draw_tiles(1, seed), (1,), OFF)) for seed in range(8)]
    assert entered.wait(20)
    closing_thread = threading.Thread(target=line.close)
    closing_thread.start()
    while not line._is_closed:
        time.sleep(0.001)
    go_on.set()
    closing_thread.join(20)
    assert not closing_thread.is_alive()
    errors = [future.exception(20) for future in futures]
    assert errors[0] is None  # its step had begun
    assert all(isinstance(error, ServerError) for error in errors[1:])
    late = line.encode(TileGroup(draw_tiles(1), (1,), OFF))
    assert isinstance(late.exception(20), ServerError)
    line.close()


def test_nothing_of_a_request_is_kept(model) -> None:
    def count_all() -> Counter[str]:
        gc.collect()
        kinds = [type(one) for one in gc.get_objects()]
        names = [f"{kind.__module__}.{kind.__qualname__}" for kind in kinds]
        return Counter(one for one in names if one.startswith(("internvl35", "torch", "_asyncio")))

    async def main() -> None:
        async with serving(model, feature_cache_mib=0) as (_, link):
            counts = []
            for number in (8, 32):
                for seed in range(number):
                    policy = (OFF, ALL, RELEASED, ABSOLUTE)[seed % 4]
                    await ask(link, draw_tiles(1, seed), (1,), policy)
                counts.append(count_all())
            before, after = counts
            grown = {name: (before[name], n) for name, n in after.items() if n > before[name] + 4}
            assert grown == {}

    run(main())


def test_what_fails_for_want_of_memory_fails_alone(model, monkeypatch) -> None:
    async def main() -> None:
        async with serving(model) as (service, link):
            step = service._line.thread._encoder.step
            errors = [RuntimeError("can't allocate memory: you tried to allocate 9 bytes")]

            def fail_once() -> Any:
                if errors:
                    raise errors.pop()
                return step()

            monkeypatch.setattr(service._line.thread._encoder, "step", fail_once)
            error = await refusal(ask(link, draw_tiles(2), (2,), OFF))
            assert (error.code, "allocate memory" in str(error)) == (NackCode.INTERNAL, True)
            assert len((await ask(link, draw_tiles(2), (2,), OFF))[0]) == 2

    run(main())


@pytest.mark.parametrize(
    "failure", [KeyError("planted"), torch.AcceleratorError("planted")], ids=["bug", "device"]
)
def test_the_end_of_the_thread_ends_all_requests_and_is_told(model, monkeypatch, failure) -> None:
    def die() -> None:
        raise failure

    async def main() -> None:
        async with serving(model) as (service, link):
            monkeypatch.setattr(service._line.thread._encoder, "step", die)
            error = await refusal(ask(link, draw_tiles(2), (2,), OFF))
            assert error.code is NackCode.INTERNAL
            assert error.code.is_retryable
            with pytest.raises(type(failure), match="planted"):
                await asyncio.wait_for(service.wait_failed(), 10)
            assert (await refusal(ask(link, draw_tiles(2), (2,), OFF))).code is NackCode.INTERNAL

    run(main())


@pytest.mark.parametrize(
    "fields", [{"max_tiles_in_work": 0}, {"feature_cache_mib": -1}, {"retry_after_s": 0.0}]
)
def test_settings_under_which_nothing_is_encoded_are_refused(fields) -> None:
    with pytest.raises(ConfigError, match=next(iter(fields))):
        VisionServerSettings(**fields)
