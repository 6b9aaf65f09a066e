"""Visual tokens that come piece by piece: the same answers, shared prefixes, ends that free all."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from random import Random

import pytest
import torch
from engine_requests import RULES, draw_request, make_request, reference
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.errors import MediaError, ServerError
from internvl35.generate.arriving import ArrivingFeatures
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engine_thread import EngineThread
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings

FAMILIES = ("qwen3", "qwen3_moe", "gpt_oss")
GREEDY = SamplingSettings(max_tokens=8)
LOST = ServerError("the vision server is gone")


@pytest.fixture(scope="module")
def qwen(build_model):
    return build_model("qwen3")


def make_engine(model, *, num_blocks=40, **options):
    text = model.config.text_config
    numbers = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
    gib = (num_blocks + 0.5) * numbers * 4 * 4 / 2**30
    options = {"block_size": 4, "is_checked": True, "cache_gib": gib, **options}
    return Engine(model, RULES, settings=EngineSettings(**options))


def encode(model, request):
    """The visual tokens of all tiles at once."""
    with torch.inference_mode():
        return model.get_image_features(request.pixel_values).flatten(0, 1)


def open_arriving(request, features):
    """The same request, whose visual tokens are still to come."""
    arriving = ArrivingFeatures(*features.shape, dtype=features.dtype)
    return Request(request.prompt, arriving=arriving)


def pieces(rng, features):
    """Visual tokens cut at random and shuffled."""
    cuts = sorted(rng.sample(range(1, len(features)), rng.randint(0, min(4, len(features) - 1))))
    found = list(zip([0, *cuts], features.tensor_split(cuts), strict=True))
    rng.shuffle(found)
    return found


def is_empty(engine):
    return engine.scheduler.pool.num_available == engine.scheduler.pool.num_blocks


def finish(engine):
    found = {}
    while engine.has_work:
        for update in engine.step():
            if update.completion is not None:
                found[update.request_id] = update.completion
    assert is_empty(engine)
    assert not engine._arriving
    return found


_known: dict = {}


def shelf(build_model, family):
    """A network and requests with their features and answers, computed once."""
    if family not in _known:
        model, rng = build_model(family), Random(11)
        drawn = [draw_request(rng) for _ in range(16)]
        known = [
            (request, encode(model, request), reference(model, request, GREEDY))
            for request in drawn
            if request.pixel_values is not None
        ]
        _known[family] = model, known
    return _known[family]


@settings(max_examples=6)
@given(st.integers(0, 2**32))
def test_no_order_of_arrival_changes_an_answer(build_model, seed):
    check_arrivals(build_model, Random(seed))


@pytest.mark.slow
def test_five_thousand_orders_of_arrival_change_no_answer(build_model):
    for seed in range(5000):
        check_arrivals(build_model, Random(seed))


def check_arrivals(build_model, rng):
    """Requests and pieces of visual tokens come at random; some fail, some are cancelled."""
    model, known = shelf(build_model, rng.choice(FAMILIES))
    engine = make_engine(
        model,
        num_blocks=rng.choice((24, 32, 60)),
        max_batch_tokens=rng.randint(2, 40),
        max_sequences=rng.randint(1, 6),
        has_prefix_cache=rng.random() < 0.8,
    )
    expected, found, coming, count = {}, {}, {}, 0
    while count < 8 or engine.has_work:
        if count < 8 and rng.random() < 0.4:
            request, features, answer = rng.choice(known)
            opened = open_arriving(request, features)
            sampling = replace(GREEDY, n=rng.choice((1, 1, 2)))
            name = engine.submit(
                opened if rng.random() < 0.8 else request, sampling, priority=rng.randint(0, 1)
            )
            expected[name] = [answer] * sampling.n
            coming[name] = opened.arriving, pieces(rng, features)
            count += 1
        if coming and rng.random() < 0.7:
            name = rng.choice(list(coming))
            arriving, left = coming[name]
            how = rng.random()
            if how < 0.04 and name not in found:
                expected[name] = "cancelled" if engine.cancel(name) else expected[name]
                del coming[name]
            elif how < 0.08 and engine._jobs.get(name) in engine._arriving:
                arriving.fail(LOST)
                expected[name] = "error"
                del coming[name]
            else:
                arriving.add(*left.pop())
                if not left:
                    del coming[name]
        for update in engine.step():
            if update.completion is not None:
                assert update.request_id not in found, "answered twice"
                found[update.request_id] = update.completion
    for name, answer in expected.items():
        samples = found[name].samples
        if isinstance(answer, str):
            assert {sample.finish_reason for sample in samples} == {answer}
            assert found[name].failure is (LOST if answer == "error" else None)
        else:
            assert [list(sample.token_ids) for sample in samples] == answer
    assert is_empty(engine)


def test_a_prompt_is_computed_as_far_as_its_visual_tokens_reach(qwen):
    request = make_request(Random(3), 10, (1, 2))
    features = encode(qwen, request)
    opened = open_arriving(request, features)
    engine = make_engine(qwen)
    engine.submit(opened, GREEDY)
    first, second = request.prompt.image_spans
    (sequence,) = engine.scheduler.waiting
    reached = []
    for start, stop in ((0, 0), (2, 4), (0, 2), (6, 12), (4, 6)):
        opened.arriving.add(start, features[start:stop])
        engine.step()
        reached.append(sequence.num_computed)
    assert reached == [
        first.start, first.start, second.start, second.start, len(request.prompt)
    ]  # fmt: skip
    (completion,) = finish(engine).values()
    assert list(completion.samples[0].token_ids) == reference(qwen, request, GREEDY)


def test_a_picture_that_arrives_again_is_not_computed_again(qwen):
    request = make_request(Random(4), 20, (3, 2))
    features = encode(qwen, request)
    engine = make_engine(qwen)
    counts = []
    for other, size in ((features, 2), (features, 20), (features, 2), (features * 2, 20)):
        opened = open_arriving(request, other)
        engine.submit(opened, GREEDY)
        engine.step()
        for place in range(0, len(features), size):
            opened.arriving.add(place, other[place : place + size])
            engine.step()
        (completion,) = finish(engine).values()
        counts.append(completion.num_cached_tokens)
        answer = reference(qwen, replace(request, pixel_values=None, image_features=other), GREEDY)
        assert list(completion.samples[0].token_ids) == answer
    most, front = len(request.prompt) - 1, request.prompt.image_spans[0].start
    # a block is begun before its visual tokens tell that it is known
    assert counts == [0, most // 4 * 4 - front % 4, counts[2], front // 4 * 4]
    assert most // 2 < counts[2] < counts[1]


def test_what_only_waits_for_visual_tokens_gives_its_room_to_what_has_them(qwen):
    request = make_request(Random(5), 12, (3,))
    features = encode(qwen, request)
    num_blocks = -(-len(request.prompt) // 4) + 2
    engine = make_engine(qwen, num_blocks=num_blocks, has_prefix_cache=False)
    stalled, behind = open_arriving(request, features), open_arriving(request, features)
    late = engine.submit(stalled, GREEDY)
    engine.step()
    engine.submit(behind, GREEDY)
    other = engine.submit(replace(request, pixel_values=None, image_features=features), GREEDY)
    found = {}
    for _ in range(30):
        found |= {update.request_id: None for update in engine.step() if update.completion}
    assert list(found) == [other]
    assert [sequence.request_id for sequence in engine.scheduler.running] == [late]
    stalled.arriving.add(0, features)
    behind.arriving.add(0, features)
    assert len(finish(engine)) == 2


def test_a_failure_after_the_last_visual_token_changes_nothing(qwen):
    request = make_request(Random(6), 9, (1,))
    features = encode(qwen, request)
    opened = open_arriving(request, features)
    opened.arriving.add(0, features)
    opened.arriving.fail(LOST)
    (completion,) = make_engine(qwen).generate([opened], GREEDY)
    assert list(completion.samples[0].token_ids) == reference(qwen, request, GREEDY)


@pytest.mark.parametrize(
    ("first", "values", "told"),
    [
        (2, torch.zeros(2, 8), "came before"),
        (7, torch.zeros(2, 8), "7 to 8 arrive"),
        (-1, torch.zeros(1, 8), "-1"),
        (4, torch.zeros(2, 7), "needed: .n, 8."),
        (4, torch.zeros(2, 8, dtype=torch.bfloat16), "bfloat16"),
        (4, torch.full((1, 8), float("nan")), "NaN"),
    ],
)
def test_what_does_not_belong_is_refused_and_changes_nothing(first, values, told):
    arriving = ArrivingFeatures(8, 8, torch.float32)
    arriving.add(3, torch.ones(1, 8))
    with pytest.raises(MediaError, match=told):
        arriving.add(first, values)
    arriving.add(0, torch.ones(3, 8))
    assert arriving.num_ready == 4
    assert bool((arriving.values[:4] == 1).all())


def test_another_width_than_the_networks_is_refused(qwen):
    request = make_request(Random(7), 9, (1,))
    with pytest.raises(MediaError, match="width 7"):
        make_engine(qwen).submit(Request(request.prompt, arriving=ArrivingFeatures(4, 7)), GREEDY)
    with pytest.raises(ValueError, match="4 places"):
        Request(request.prompt, arriving=ArrivingFeatures(5, 7))


# In threads ---------------------------------------------------------------------------------------


@pytest.fixture
def thread(qwen):
    engine = EngineThread(make_engine(qwen))
    yield engine
    engine.close()


def test_readers_are_answered_whoever_adds_what_from_which_thread(thread, qwen):
    rng = Random(8)
    requests = [make_request(rng, 9, (2, 1), seed=seed) for seed in range(4)]
    features = [encode(qwen, request) for request in requests]
    opened = [open_arriving(*pair) for pair in zip(requests, features, strict=True)]
    parts = [
        (one.arriving, *piece)
        for one, own in zip(opened, features, strict=True)
        for piece in pieces(rng, own)
    ]
    rng.shuffle(parts)

    def add(own):
        for arriving, first, values in own:
            arriving.add(first, values)

    async def ask():
        async def read(request):
            stream = thread.stream(request, GREEDY)
            return [token_id async for update in stream for token_id in update.token_ids]

        tasks = [asyncio.create_task(read(request)) for request in opened]
        await asyncio.sleep(0)
        for number in range(3):
            threading.Thread(target=add, args=(parts[number::3],)).start()
        return await asyncio.gather(*tasks)

    assert asyncio.run(ask()) == [reference(qwen, request, GREEDY) for request in requests]


def test_the_engine_sleeps_until_something_arrives(thread, qwen):
    request = make_request(Random(9), 9, (1,))
    features = encode(qwen, request)
    opened = open_arriving(request, features)
    is_idle, num_steps = threading.Event(), []
    plan = thread.engine.scheduler.plan

    def watch():
        works = plan()
        num_steps.append(len(works))
        if not works:
            is_idle.set()
        return works

    thread.engine.scheduler.plan = watch
    news = []
    reader = threading.Thread(target=lambda: news.extend(thread.read(opened, GREEDY)))
    reader.start()
    assert is_idle.wait(30)
    before = len(num_steps)
    assert not reader.join(0.05)
    assert len(num_steps) == before
    opened.arriving.add(0, features)
    reader.join(30)
    assert list(news[-1].completion.samples[0].token_ids) == reference(qwen, request, GREEDY)


def test_whoever_reads_hears_why_no_more_comes(thread, qwen):
    request = make_request(Random(10), 9, (1,))
    opened = open_arriving(request, encode(qwen, request))
    threading.Timer(0.02, opened.arriving.fail, (LOST,)).start()
    (update,) = thread.read(opened, GREEDY)
    assert (update.finish_reason, update.completion.failure) == ("error", LOST)


def test_all_can_be_waited_for():
    arriving = ArrivingFeatures(2, 3)
    values = torch.ones(2, 3, dtype=torch.bfloat16)
    threading.Timer(0.02, arriving.add, (1, values[1:])).start()
    threading.Timer(0.04, arriving.add, (0, values[:1])).start()
    assert torch.equal(asyncio.run(arriving.wait()), values)
    failed = ArrivingFeatures(2, 3)
    threading.Timer(0.02, failed.fail, (LOST,)).start()
    with pytest.raises(ServerError, match="is gone"):
        asyncio.run(failed.wait())
