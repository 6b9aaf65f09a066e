"""The engine in a thread: lists, readers and coroutines share steps; ends and errors reach them."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from dataclasses import replace
from random import Random

import pytest
from engine_requests import RULES, make_request, reference

from internvl35.errors import PromptError, ServerError
from internvl35.generate.digests import digest_tensor
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import ORDERS_PER_STEP, EngineThread
from internvl35.generate.sampling import SamplingSettings, StructureSettings

GREEDY = SamplingSettings(max_tokens=10)
LONG = SamplingSettings(max_tokens=500, ignore_end=True)
SHORT = SamplingSettings(max_tokens=40, ignore_end=True)
EMPTY = make_request(Random(0), 0)


@pytest.fixture(scope="module")
def model(build_model):
    return build_model("qwen3", text={"max_position_embeddings": 4096})


@pytest.fixture
def engine(model):
    settings = EngineSettings(block_size=4, is_checked=True)
    engine = EngineThread(Engine(model, RULES, settings=settings))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def requests():
    return [make_request(Random(seed), 9, (1,) * (seed % 2), seed=seed) for seed in range(6)]


@pytest.fixture(scope="module")
def expected(model, requests):
    return [reference(model, request, GREEDY) for request in requests]


def read(stream):
    return [token_id for update in stream for token_id in update.token_ids]


async def collect(stream):
    return [token_id async for update in stream for token_id in update.token_ids]


def test_lists_readers_and_coroutines_get_the_same_answers(engine, requests, expected):
    found = engine.generate(requests, GREEDY)
    assert [list(completion.samples[0].token_ids) for completion in found] == expected
    assert [read(engine.read(request, GREEDY)) for request in requests] == expected

    async def ask():
        return await asyncio.gather(
            *(collect(engine.stream(request, GREEDY)) for request in requests)
        )

    assert asyncio.run(ask()) == expected


def test_a_coroutine_cancelled_while_it_hands_its_request_over_harms_nobody(
    engine, requests, expected
):
    engine.generate(requests[:1], GREEDY)  # starts the thread

    async def ask():
        is_free = threading.Event()
        engine._orders.put(lambda: is_free.wait(10) and None)
        hasty = asyncio.create_task(collect(engine.stream(requests[0], LONG)))
        await asyncio.sleep(0.02)  # it waits for its request's name now
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
        is_free.set()
        return await collect(engine.stream(requests[1], GREEDY))

    assert asyncio.run(ask()) == expected[1]
    engine.close()
    assert engine.engine.num_requests == 0


def test_a_request_whose_name_comes_after_its_reader_left_is_cancelled(engine, requests):
    async def ask():
        submit, is_late = engine.engine.submit, threading.Event()

        def submit_late(*arguments, **options):
            is_late.wait(10)
            return submit(*arguments, **options)

        engine.engine.submit = submit_late
        hasty = asyncio.create_task(collect(engine.stream(requests[0], LONG)))
        await asyncio.sleep(0.02)  # the engine's thread is taking the request
        hasty.cancel()
        await asyncio.gather(hasty, return_exceptions=True)
        is_late.set()
        engine.engine.submit = submit
        return await collect(engine.stream(requests[1], GREEDY))

    asyncio.run(ask())
    engine.close()
    assert engine.engine.num_requests == 0


def test_callers_in_several_threads_are_answered_in_the_same_steps(engine, requests, expected):
    most, plan = [0], engine.engine.scheduler.plan

    def watch():
        works = plan()
        most[0] = max(most[0], len(works))
        return works

    engine.engine.scheduler.plan = watch
    found: dict[int, list[int]] = {}
    reader = engine.read(requests[0], LONG)  # keeps the engine at work while the others come
    next(reader)

    def ask(number):
        (completion,) = engine.generate([requests[number]], GREEDY)
        found[number] = list(completion.samples[0].token_ids)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader.close()
    assert [found[number] for number in range(1, 6)] == expected[1:]
    assert most[0] >= 2


def test_leaving_a_reader_ends_its_request(engine, requests):
    reader = engine.read(requests[0], LONG)
    next(reader)
    reader.close()

    async def leave():
        stream = engine.stream(requests[0], LONG)
        await anext(stream)
        await stream.aclose()

    asyncio.run(leave())
    engine.generate([requests[1]], GREEDY)
    assert engine.engine.num_requests == 0


def test_a_refused_request_is_told_to_whoever_asked(engine, requests, expected):
    with pytest.raises(PromptError, match="no tokens"):
        next(engine.read(EMPTY, GREEDY))

    async def ask():
        await anext(engine.stream(EMPTY, GREEDY))

    with pytest.raises(PromptError, match="no tokens"):
        asyncio.run(ask())
    bad, good = engine.generate([EMPTY, requests[0]], GREEDY)
    assert "no tokens" in bad.samples[0].error
    assert list(good.samples[0].token_ids) == expected[0]


def test_names_in_use_are_refused(engine, requests):
    async def ask():
        first = engine.stream(requests[0], LONG, request_id="a")
        await anext(first)
        with pytest.raises(ServerError, match="in work"):
            await anext(engine.stream(requests[1], GREEDY, request_id="a"))
        await first.aclose()

    asyncio.run(ask())


def test_whoever_waits_when_the_engine_is_closed_is_told(engine, requests):
    reader = engine.read(requests[0], LONG)
    next(reader)
    engine.close()
    with pytest.raises(ServerError, match="closed"):
        read(reader)
    with pytest.raises(ServerError, match="closed"):
        engine.generate([requests[0]], GREEDY)
    engine.close()


def test_an_engine_that_breaks_tells_all_who_wait(engine, requests, monkeypatch):
    reader = engine.read(requests[0], LONG)
    next(reader)

    def fail():
        raise ValueError("a bug")

    monkeypatch.setattr(engine.engine, "step", fail)
    with pytest.raises(ValueError, match="a bug"):
        read(reader)
    with pytest.raises(ServerError, match="a bug"):
        engine.generate([requests[0]], GREEDY)


def test_an_interrupt_while_waiting_cancels_what_was_asked(engine, requests, monkeypatch):
    class Interrupted:
        def __init__(self):
            self.count = 0

        def put(self, _):
            pass

        def get(self):
            raise KeyboardInterrupt

    engine.generate([requests[0]], GREEDY)
    monkeypatch.setattr("internvl35.generate.engine_thread.SimpleQueue", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests, LONG)
    monkeypatch.undo()
    engine.generate([requests[0]], GREEDY)
    assert engine.engine.num_requests == 0


# Leaving and coming back --------------------------------------------------------------------------


async def reasons(stream):
    async for update in stream:
        if update.completion is not None:
            return [sample.finish_reason for sample in update.completion.samples]
    return []


def test_a_name_may_be_used_again_as_soon_as_its_reader_has_left(engine, requests):
    async def ask():
        first = engine.stream(requests[0], LONG, request_id="a")
        await anext(first)
        is_free = threading.Event()
        engine._orders.put(lambda: is_free.wait(10))  # so that both orders meet before a step
        await first.aclose()
        again = asyncio.create_task(reasons(engine.stream(requests[1], SHORT, request_id="a")))
        await asyncio.sleep(0.02)
        is_free.set()
        return await again

    assert asyncio.run(ask()) == ["length"]


def test_a_reader_who_closes_late_does_not_end_a_later_request_of_the_name(engine, requests):
    async def ask():
        first = engine.stream(requests[0], GREEDY, request_id="a")
        assert await reasons(first) in (["stop"], ["length"])
        second = engine.stream(requests[1], SHORT, request_id="a")
        await anext(second)
        await first.aclose()
        return await asyncio.wait_for(reasons(second), 60)

    assert asyncio.run(ask()) == ["length"]


def test_whoever_reads_a_request_that_another_cancels_hears_of_it(engine, requests):
    async def ask():
        stream = engine.stream(requests[0], LONG, request_id="a")
        await anext(stream)
        engine.cancel("a")
        return await asyncio.wait_for(reasons(stream), 60)

    assert asyncio.run(ask()) == ["cancelled"]


def test_a_reader_whose_loop_is_closed_harms_nobody(engine, requests, expected, monkeypatch):
    loop = asyncio.new_event_loop()
    stream = engine.stream(requests[0], LONG)
    loop.run_until_complete(anext(stream))
    loop.close()
    monkeypatch.setattr(loop, "is_closed", lambda: False)  # as a moment before
    (completion,) = engine.generate([requests[1]], GREEDY)
    assert list(completion.samples[0].token_ids) == expected[1]
    monkeypatch.undo()


def test_a_request_that_the_engine_stumbles_over_fails_alone(engine, requests, expected):
    with pytest.raises(AttributeError):
        next(engine.read(None, GREEDY))
    (completion,) = engine.generate([requests[1]], GREEDY)
    assert list(completion.samples[0].token_ids) == expected[1]


def test_half_a_character_in_a_salt_is_a_salt_like_others(engine, requests, expected):
    assert (
        asyncio.run(collect(engine.stream(requests[1], GREEDY, cache_salt="\ud800")))
        == (expected[1])
    )


# Load ---------------------------------------------------------------------------------------------


def test_a_list_is_taken_on_without_a_step_for_each_of_it(engine, requests):
    num_works, plan = [], engine.engine.scheduler.plan

    def watch():
        works = plan()
        num_works.append(len(works))
        return works

    engine.engine.scheduler.plan = watch
    is_free = threading.Event()
    engine._orders.put(lambda: is_free.wait(10))
    reader = engine.read(requests[0], GREEDY)
    threading.Timer(0.05, is_free.set).start()
    next(reader)
    reader.close()
    num_works.clear()
    engine.generate([requests[0]] * 12, SamplingSettings(max_tokens=5, ignore_end=True))
    assert max(num_works) >= 12  # at five tokens each, one a step would never be so many


@pytest.mark.parametrize("is_in_thread", [True, False])
def test_a_list_longer_than_what_may_be_in_work_is_answered(
    model, requests, expected, is_in_thread
):
    engine = Engine(model, RULES, settings=EngineSettings(max_waiting=2))
    asked = EngineThread(engine) if is_in_thread else engine
    found = asked.generate(requests, GREEDY)
    assert [list(completion.samples[0].token_ids) for completion in found] == expected


def test_few_requests_are_taken_on_between_two_steps(engine, requests):
    request = make_request(Random(1), 9)
    is_free, taken, steps = threading.Event(), [], []
    submit, step = engine.engine.submit, engine.engine.step

    def watch_submit(*arguments, **options):
        taken.append(None)
        return submit(*arguments, **options)

    def watch_step():
        steps.append(len(taken))
        return step()

    engine.engine.submit, engine.engine.step = watch_submit, watch_step
    list(engine.read(requests[0], GREEDY))
    taken.clear()
    steps.clear()

    async def ask():
        engine._orders.put(lambda: is_free.wait(10))
        tasks = [asyncio.create_task(reasons(engine.stream(request, GREEDY))) for _ in range(50)]
        await asyncio.sleep(0.05)
        is_free.set()
        return await asyncio.gather(*tasks)

    assert len(asyncio.run(ask())) == 50
    news = [later - sooner for sooner, later in zip([0, *steps], steps, strict=False)]
    assert sum(news) == 50
    assert max(news) <= ORDERS_PER_STEP + 1


def test_pictures_are_looked_through_in_the_thread_of_whoever_asks(engine, requests, monkeypatch):
    threads = []

    def watch(values):
        threads.append(threading.current_thread().name)
        return digest_tensor(values)

    monkeypatch.setattr("internvl35.generate.request.digest_tensor", watch)
    shown = [replace(request) for request in requests if request.pixel_values is not None]
    engine.generate(shown[:1], GREEDY)
    read(engine.read(shown[1], GREEDY))
    asyncio.run(collect(engine.stream(shown[2], GREEDY)))
    assert len(threads) == 3
    assert "engine" not in threads


def test_a_structure_that_is_ready_is_not_made_again_in_the_engines_thread(
    engine, requests, monkeypatch
):
    threads = []
    grammar = object()

    def prepare(_):
        threads.append(threading.current_thread().name)
        return grammar

    monkeypatch.setattr(engine.engine, "prepare", prepare)
    monkeypatch.setattr(engine.engine, "submit", lambda *_, grammar, **__: seen.append(grammar))
    seen = []
    structure = StructureSettings(regex="a")
    threading.Timer(0.05, engine.close).start()
    with pytest.raises(ServerError, match="closed"):
        next(engine.read(requests[0], SamplingSettings(structure=structure)))
    assert threads == [threading.current_thread().name]
    assert seen == [grammar]


def test_an_engine_that_nobody_holds_ends(model, requests):
    engine = EngineThread(Engine(model, RULES))
    reader = engine.read(requests[0], SHORT)
    next(reader)
    inner, thread = weakref.ref(engine.engine), engine._loop._thread
    del engine
    gc.collect()
    assert len(read(reader)) == 39  # whoever reads holds it
    del reader
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()
    gc.collect()
    assert inner() is None
