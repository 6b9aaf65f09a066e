"""Tiles that a thread encodes beside answers: the same features, bounded, failing alone."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from random import Random

import pytest
import torch
from engine_requests import RULES, draw_request, make_request, reference
from flash_models import FULL, TILE, make_flash_model

from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ServerError
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.side_stream import MOST_BESIDE, SideThread
from internvl35.generate.vision import VisionStage, VisionStageSettings

OFF = FlashSettings("off")
PLACE = 635


@pytest.fixture(scope="module")
def model():
    return make_flash_model()


@pytest.fixture(scope="module")
def shelf():
    return torch.randn(16, 3, TILE, TILE, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def two_threads():
    """Two threads of torch in all, as on the smallest machine that has a share to give."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def request_of(tiles):
    num_tokens = FULL * len(tiles)
    ids = (5, *[PLACE] * num_tokens, 7)
    spans = (ImageSpan(1, num_tokens, len(tiles)),)
    return Request(Prompt(ids, spans, (False,) * len(ids)), tiles)


@contextmanager
def watched(model, act=lambda: None):
    """Names of the threads in which the tower runs, and how many threads torch has there."""
    seen = []

    def note(*_):
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        act()

    hook = model.vision_tower.register_forward_pre_hook(note)
    yield seen
    hook.remove()


def finish(stage, max_tiles=2):
    found = {}
    while stage.has_work:
        found |= dict(stage.step(max_tiles))
    return found


def features_of(model, tiles):
    with torch.inference_mode():
        return model.get_image_features(tiles).flatten(0, 1)


@pytest.mark.usefixtures("two_threads")
def test_tiles_beside_answers_are_encoded_by_a_thread_with_half_of_the_threads(model, shelf):
    stage = VisionStage(model, beside=SideThread())
    stage.submit("beside", request_of(shelf[:5]), OFF)
    with watched(model) as seen:
        stage.step(2)
        assert torch.get_num_threads() == 1  # the caller's share
        found = finish(stage)
    assert [name.partition("_")[0] for name, _ in seen] == ["encode-tiles"] * 3
    assert {count for _, count in seen} == {1}
    assert torch.get_num_threads() == 2  # all of them are back
    features = found["beside"].request.image_features
    torch.testing.assert_close(features, features_of(model, shelf[:5]))


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("case", ["routed", "nothing beside", "one thread"])
def test_other_tiles_are_encoded_before_a_step_returns(model, shelf, case):
    stage = VisionStage(model, beside=SideThread(1 if case == "one thread" else 2))
    flash = FlashSettings("absolute") if case == "routed" else OFF
    stage.submit("plain", request_of(shelf[:2]), flash)
    with watched(model) as seen:
        assert dict(stage.step(None if case == "nothing beside" else 2))
    assert seen == [(threading.current_thread().name, 2)]


def test_a_thread_that_is_slow_is_given_few_batches(model, shelf):
    stage = VisionStage(model, VisionStageSettings(tiles_per_turn=1), beside=SideThread(2))
    go_on = threading.Event()
    for number in range(12):
        stage.submit(str(number), request_of(shelf[number : number + 1]), OFF)
    with watched(model, lambda: go_on.wait(60)) as seen:
        for _ in range(6):
            assert not stage.step(2)
        assert stage._beside.is_full
        assert len(stage._running) == MOST_BESIDE
        go_on.set()
        found = finish(stage)
    assert len(seen) == 6
    for number in range(12):
        features = found[str(number)].request.image_features
        torch.testing.assert_close(features, features_of(model, shelf[number : number + 1]))


def test_a_batch_that_fails_in_the_thread_fails_alone(model, shelf):
    stage = VisionStage(model, VisionStageSettings(max_tiles_per_batch=2), beside=SideThread(2))
    failures = [RuntimeError("can't allocate memory")]

    def fail_once():
        if failures:
            raise failures.pop()

    for number in range(3):
        stage.submit(str(number), request_of(shelf[2 * number : 2 * number + 2]), OFF)
    with watched(model, fail_once):
        found = finish(stage)
    assert isinstance(found["0"], ServerError)
    assert "can't allocate memory; send fewer or smaller ones" in str(found["0"])
    for key in ("1", "2"):
        assert found[key].request.image_features.shape[0] == 2 * FULL
    assert stage.num_waiting_tiles == 0


def test_a_device_that_failed_for_good_ends_the_step(model, shelf):
    stage = VisionStage(model, beside=SideThread(2))
    stage.submit("key", request_of(shelf[:1]), OFF)

    def fail():
        raise torch.AcceleratorError("an illegal memory access was encountered")

    with watched(model, fail), pytest.raises(torch.AcceleratorError):
        finish(stage)


def test_tiles_that_old_weights_encode_are_not_kept_for_new_ones(model, shelf):
    stage = VisionStage(model, beside=SideThread(2))
    has_begun, go_on = threading.Event(), threading.Event()
    with watched(model, lambda: has_begun.set() or go_on.wait(60)):
        stage.submit("gone", request_of(shelf[:1]), OFF)
        stage.step(1)
        assert has_begun.wait(60)
        stage.cancel("gone")
        stage.forget_pictures()
        go_on.set()
        assert finish(stage) == {}
    stage.submit("new", request_of(shelf[:1]), OFF)
    with watched(model) as seen:
        assert set(finish(stage)) == {"new"}
    assert len(seen) == 1


@pytest.mark.usefixtures("two_threads")
def test_answers_beside_an_encoding_thread_are_those_of_transformers(build_model):
    network = build_model("qwen3")
    rng, greedy = Random(11), SamplingSettings(max_tokens=12)
    requests = [draw_request(rng) for _ in range(10)]
    expected = [reference(network, request, greedy) for request in requests]
    engine = Engine(
        network, RULES,
        settings=EngineSettings(
            tiles_beside_answers=1, max_sequences=2, block_size=4, is_checked=True
        ),
    )  # fmt: skip
    with watched(network) as seen:
        found = engine.generate(requests, greedy)
    assert [list(one.samples[0].token_ids) for one in found] == expected
    assert any(name.startswith("encode-tiles") for name, _ in seen)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_where_few_answers_go_on_and_many_wait_they_wait_for_tiles_too(build_model):
    network = build_model("qwen3")
    requests = [make_request(Random(number), 5, (1,), seed=number) for number in range(10)]
    endless = SamplingSettings(max_tokens=200, ignore_end=True)
    engine = Engine(network, RULES, settings=EngineSettings(tiles_beside_answers=1))
    with watched(network) as seen:
        engine.submit(requests[0], endless)
        engine.step()
        for request in requests[1:]:
            engine.submit(request, endless)
        while len(seen) < len(requests):
            engine.step()
    # one answer and nine who wait, two and eight: four a one who writes are no longer outweighed
    places = [name.partition("_")[0] for name, _ in seen]
    assert places == [threading.current_thread().name] * 2 + ["encode-tiles"] * 8
