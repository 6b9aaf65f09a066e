"""The vision stage: what a request gets is what it gets alone, whoever comes, goes or waits."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from flash_models import FULL, SHORT, TILE, make_flash_model
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ConfigError, MediaError, PromptError, ServerError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import route
from internvl35.generate.side_stream import Encoded, SideStream
from internvl35.generate.vision import EncodedRequest, VisionStage, VisionStageSettings

PLACE, WIDTH = 635, 48
OFF, ALL, RELEASED, ABSOLUTE = map(FlashSettings, ("off", "all", "released", "absolute"))
TILE_BYTES = FULL * WIDTH * 4


@pytest.fixture(scope="module")
def model():
    return make_flash_model()


@pytest.fixture(scope="module")
def shelf():
    return torch.randn(48, 3, TILE, TILE, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def base():
    return make_flash_model(flash_mode=False)


def prompt_of(counts, tokens_per_tile=FULL):
    ids, spans = [5], []
    for count in counts:
        spans.append(ImageSpan(len(ids), tokens_per_tile * count, count))
        ids += [PLACE] * (tokens_per_tile * count) + [7, 8]
    return Prompt(tuple(ids), tuple(spans), (False,) * len(ids))


def request_of(shelf, pictures):
    """Pictures are lists of tiles of the shelf."""
    numbers = [tile for picture in pictures for tile in picture]
    return Request(prompt_of(map(len, pictures)), shelf[numbers] if numbers else None)


def finish(stage, most=1000, max_tiles=None):
    """Step until nothing is left; a request that comes twice is an error."""
    found = {}
    for _ in range(most):
        if not stage.has_work:
            return found
        for key, result in stage.step(max_tiles):
            assert key not in found
            found[key] = result
    raise AssertionError(f"still at work after {most} steps")


def encode(model, request, flash=None, **options):
    stage = VisionStage(model, VisionStageSettings(**options))
    stage.submit("alone", request, flash)
    return finish(stage)["alone"]


def expected_features(model, request, flash):
    """What the network alone gives: the tower over the whole request, by no code of the stage."""
    (routed,) = route(model, [request], flash)
    if routed.pixel_values is None:
        return routed
    with torch.inference_mode():
        features = model.get_image_features(routed.pixel_values).flatten(0, 1)
    return Request(routed.prompt, image_features=features)


@contextmanager
def counted(model):
    """Tiles of each call of the tower."""
    calls = []
    hook = model.vision_tower.register_forward_hook(
        lambda _module, arguments, _output: calls.append(len(arguments[0]))
    )
    yield calls
    hook.remove()


class LateStream:
    """Stands in for a CUDA stream: results are there only after they were asked for a few times."""

    def __init__(self, model, delay):
        self.plain, self.delay = SideStream(model), delay

    def run(self, encode, pixel_values):
        encoded = self.plain.run(encode, pixel_values)
        return LateResult(encoded.output, encoded.is_finite, delay=self.delay)


class LateResult(Encoded):
    def __init__(self, output, is_finite, delay):
        super().__init__(output, is_finite)
        self.delay = delay

    def is_done(self):
        self.delay -= 1
        return self.delay < 0


def is_empty(stage):
    tables = stage._jobs, stage._turns, stage._pieces, stage._running, stage._results
    return not any(tables) and not stage.has_work and stage.num_waiting_tiles == 0


def test_tiles_of_lower_numbers_go_first_and_equal_ones_in_turn(model, shelf):
    stage = VisionStage(model, VisionStageSettings(max_tiles_per_batch=2, tiles_per_turn=2))
    for number, priority in enumerate((1, 1, 0)):
        tiles = range(4 * number, 4 * number + 4)
        stage.submit(str(number), request_of(shelf, [tiles]), OFF, priority=priority)
    order = [key for _ in range(6) for key, _ in stage.step()]
    assert order == ["2", "0", "1"]


# One request --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flash", [None, OFF, ALL, RELEASED, ABSOLUTE], ids=str)
@pytest.mark.parametrize("pictures", [[[0]], [[0, 1, 2], [3], [4, 5]], [list(range(13))]], ids=len)
def test_alone_a_request_gets_the_very_bits_that_the_network_gives(model, shelf, pictures, flash):
    request = request_of(shelf, pictures)
    found = encode(model, request, flash)
    expected = expected_features(model, request, flash)
    assert found.request.prompt == expected.prompt
    assert found.request.routing == expected.routing
    assert found.request.pixel_values is None
    assert torch.equal(found.request.image_features, expected.image_features)
    assert len(found.digests) == len(pictures)


def test_on_a_network_without_a_router_tiles_keep_their_tokens(base, shelf):
    request = request_of(shelf, [[0, 1], [2]])
    found = encode(base, request).request
    assert found.prompt is request.prompt
    assert found.routing is None
    with torch.inference_mode():
        expected = base.get_image_features(request.pixel_values)
    assert torch.equal(found.image_features, expected.flatten(0, 1))


def test_a_request_without_tiles_comes_back_as_it_is(model, shelf):
    stage = VisionStage(model)
    text = request_of(shelf, [])
    shown = Request(prompt_of([2, 1]), image_features=torch.randn(3 * FULL, WIDTH))
    stage.submit("text", text)
    stage.submit("shown", shown)
    stage.submit("nothing", Request(text.prompt, shelf[:0]))
    with counted(model) as calls:
        found = dict(stage.step(0))
    assert calls == []
    assert found["text"] == found["nothing"] == EncodedRequest(text, ())
    assert found["shown"].request is shown
    assert len(set(found["shown"].digests)) == 2
    assert is_empty(stage)


@pytest.mark.parametrize("flash", [ALL, RELEASED, ABSOLUTE], ids=str)
def test_a_group_larger_than_a_batch_goes_through_the_tower_in_parts(model, shelf, flash):
    request = request_of(shelf, [list(range(7)), [8, 9]])
    for most in (None, 1, 8):  # the parts depend on the request alone
        stage = VisionStage(model, VisionStageSettings(max_tiles_per_batch=3))
        stage.submit("alone", request, flash)
        with counted(model) as calls:
            found = finish(stage, max_tiles=most)["alone"].request
        assert calls == ([3, 3, 3] if flash is RELEASED else [3, 3, 1, 2])
    expected = expected_features(model, request, flash)
    assert found.prompt == expected.prompt
    assert found.routing.is_compressed == expected.routing.is_compressed
    assert torch.allclose(found.image_features, expected.image_features, rtol=0, atol=1e-5)


# Many requests ------------------------------------------------------------------------------------

numbers = st.lists(st.integers(0, 7), min_size=1, max_size=6, unique=True)
submissions = st.tuples(
    st.just("submit"),
    numbers,
    st.integers(0, 5),  # where its tiles are cut into two pictures
    st.sampled_from([OFF, OFF, ALL, RELEASED, ABSOLUTE]),
    st.sampled_from(["", "", "salt"]),
)
schedules = st.lists(
    st.one_of(
        submissions,
        submissions,
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("step"), st.sampled_from([None, 0, 1, 2, 5, 30])),
    ),
    max_size=14,
)
expectations = {}


def remembered(compute, *names):
    if names not in expectations:
        expectations[names] = compute()
    return expectations[names]


@settings(max_examples=50)
@given(
    schedule=schedules,
    per_batch=st.sampled_from([1, 3, 16]),
    per_turn=st.integers(1, 4),
    room=st.sampled_from([0, TILE_BYTES, 4 * TILE_BYTES + 5, 10**7]),
    delay=st.sampled_from([0, 0, 1, 3]),
)
def test_any_mix_gives_each_request_what_it_gets_alone(
    model, shelf, schedule, per_batch, per_turn, room, delay
):
    stage = VisionStage(model, VisionStageSettings(per_batch, per_turn, room))
    stage._stream = LateStream(model, delay)
    asked, found, cancelled = {}, {}, set()

    def check(results):
        for key, result in results:
            assert key not in found, "handed out twice"
            assert key not in cancelled, "handed out after it was cancelled"
            found[key] = result

    for number, (name, *values) in enumerate(schedule):
        if name == "submit":
            tiles, cut, flash, salt = values
            pictures = tuple(tuple(part) for part in (tiles[:cut], tiles[cut:]) if part)
            asked[str(number)] = pictures, flash
            stage.submit(str(number), request_of(shelf, pictures), flash, cache_salt=salt)
        elif name == "cancel":
            stage.cancel(str(values[0]))
            if str(values[0]) in asked.keys() - found.keys():
                cancelled.add(str(values[0]))
        else:
            check(stage.step(*values))
        kept = [entry.features for entry in stage.cache._entries.values()]
        sizes = [features.untyped_storage().nbytes() for features in kept]
        assert sum(sizes) == stage.cache.num_bytes <= room
    check(finish(stage).items())

    assert found.keys() == asked.keys() - cancelled
    assert is_empty(stage)
    shown = {}
    for key, (pictures, flash) in asked.items():
        if key not in found:
            continue
        request, digests = found[key].request, found[key].digests
        whole = request_of(shelf, pictures)
        expected = remembered(
            lambda whole=whole, flash=flash: expected_features(model, whole, flash), pictures, flash
        )
        assert request.prompt == expected.prompt
        assert torch.allclose(request.image_features, expected.image_features, rtol=0, atol=1e-5)
        choices = [False] * whole.prompt.num_tiles
        if flash is not OFF:  # apart from all others, and so the same to the last bit
            alone = remembered(
                lambda whole=whole, flash=flash: encode(
                    model, whole, flash, max_tiles_per_batch=per_batch
                ),
                pictures, flash, per_batch,
            ).request  # fmt: skip
            assert torch.equal(request.image_features, alone.image_features)
            assert request.routing == alone.routing
            choices = list(request.routing.is_compressed)
        for picture, digest in zip(pictures, digests, strict=True):
            choice = tuple(choices[: len(picture)])
            del choices[: len(picture)]
            assert shown.setdefault(digest, (picture, choice)) == (picture, choice)
    assert len(set(shown.values())) == len(shown), "the same shown under two digests"


def test_the_mix_compresses_some_tiles_and_not_others(model, shelf):
    # else the property above would say little about choices
    for flash in (RELEASED, ABSOLUTE):
        chosen = encode(model, request_of(shelf, [range(8)]), flash).request.routing.is_compressed
        assert 0 < sum(chosen) < 8


def test_tiles_of_several_requests_share_a_batch(model, shelf):
    stage = VisionStage(model, VisionStageSettings(max_tiles_per_batch=8))
    for number in range(6):
        stage.submit(str(number), request_of(shelf, [[2 * number, 2 * number + 1]]), OFF)
    with counted(model) as calls:
        assert stage.num_waiting_tiles == 12
        assert [key for key, _ in stage.step()] == ["0", "1", "2", "3"]
        assert stage.num_waiting_tiles == 4
        assert [key for key, _ in stage.step()] == ["4", "5"]
    assert calls == [8, 4]


@pytest.mark.parametrize("room", [0, 10**7])
def test_a_tile_that_several_requests_wait_for_is_encoded_once(model, shelf, room):
    stage = VisionStage(model, VisionStageSettings(max_tiles_per_batch=2, cache_bytes=room))
    for number in range(4):
        stage.submit(f"off {number}", request_of(shelf, [[0, 1, 0], [number]]), OFF)
        stage.submit(f"group {number}", request_of(shelf, [[4, 5, 6]]), RELEASED)
    assert stage.num_waiting_tiles == 4 + 3
    stage.cancel("off 0")
    stage.cancel("group 0")
    with counted(model) as calls:
        found = dict(stage.step() + stage.step())
        assert stage.num_waiting_tiles == 2 + 1
        stage.cancel("group 1")  # two of whose tiles were encoded for all who wait
        found |= finish(stage)
    assert sum(calls) == 4 + 3
    assert found.keys() == {"off 1", "off 2", "off 3", "group 2", "group 3"}
    assert found["group 2"].digests == found["group 3"].digests


def test_what_was_seen_before_costs_nothing(model, shelf):
    stage = VisionStage(model)
    request = request_of(shelf, [[0, 1], [2]])
    for flash in (OFF, RELEASED):
        stage.submit("first", request, flash)
        first = finish(stage)["first"]
        with counted(model) as calls:
            stage.submit("again", replace(request, pixel_values=shelf[:3].clone()), flash)
            again = dict(stage.step(0))["again"]
            stage.submit("salted", request, flash, cache_salt="mine")
            salted = finish(stage)["salted"]
        assert calls == [3]
        assert torch.equal(again.request.image_features, first.request.image_features)
        assert again.digests == first.digests == salted.digests
        assert again.request.prompt == first.request.prompt


def test_after_new_weights_nothing_old_is_handed_out(shelf):
    model = make_flash_model()
    stage = VisionStage(model)
    stage.submit("before", request_of(shelf, [[0]]), OFF)
    before = finish(stage)["before"].request.image_features
    with torch.no_grad():
        model.multi_modal_projector.linear_2.bias.add_(1.0)
    stage.forget_pictures()
    stage.submit("after", request_of(shelf, [[0]]), OFF)
    after = finish(stage)["after"].request.image_features
    assert torch.allclose(after, before + 1.0, atol=1e-5)


# Fairness -----------------------------------------------------------------------------------------


# four tiles of the long one, then a turn of everybody else; a group goes by whole parts
ORDERS = [
    (OFF, [["0", "1", "2", "3"], ["4", "5"], [], [], [], ["long"]]),
    (RELEASED, [[], ["0", "1", "2", "3", "4", "5"], [], [], [], ["long"]]),
]


@pytest.mark.parametrize(("flash", "order"), ORDERS, ids=["off", "released"])
def test_a_long_request_does_not_hold_up_short_ones(model, shelf, flash, order):
    stage = VisionStage(model, VisionStageSettings(8, 4, cache_bytes=0))
    stage.submit("long", request_of(shelf, [range(40)]), flash)
    for number in range(6):
        stage.submit(str(number), request_of(shelf, [[40 + number]]), OFF)
    assert [[key for key, _ in stage.step()] for _ in range(6)] == order


@pytest.mark.parametrize("flash", [OFF, RELEASED], ids=str)
def test_short_requests_that_keep_coming_do_not_hold_up_a_long_one(model, shelf, flash):
    stage = VisionStage(model, VisionStageSettings(4, 4, cache_bytes=0))
    stage.submit("long", request_of(shelf, [range(12)]), flash)
    for number in range(20):
        stage.submit(str(number), request_of(shelf, [[20 + number]]), OFF)
        if "long" in dict(stage.step()):
            break
    assert number < 10


def test_the_oldest_request_is_the_first_to_be_done(model, shelf):
    stage = VisionStage(model, VisionStageSettings(1))
    for number in range(4):
        stage.submit(str(number), request_of(shelf, [[number]]), OFF if number % 2 else ALL)
    assert list(finish(stage)) == ["0", "1", "2", "3"]


@settings(max_examples=15)
@given(st.lists(st.tuples(numbers, st.sampled_from([OFF, RELEASED, ABSOLUTE])), max_size=5))
def test_a_step_takes_the_tiles_it_may_and_a_part_of_a_group_at_most(model, shelf, asked):
    stage = VisionStage(model, VisionStageSettings(3, 2, cache_bytes=0))
    for number, (tiles, flash) in enumerate(asked):
        stage.submit(str(number), request_of(shelf, [tiles]), flash)
    while stage.has_work:
        for most in (1, 5):
            with counted(model) as calls:
                before = stage.num_waiting_tiles
                stage.step(most)
            assert sum(calls) == before - stage.num_waiting_tiles
            assert bool(calls) == (before > 0)
            assert max(calls, default=0) <= 3
            assert sum(calls) <= max(most, 3)
            if all(flash is OFF for _, flash in asked):
                assert sum(calls) == min(most, before)


# What goes wrong ----------------------------------------------------------------------------------


def changed(values, place, value):
    values = values.clone()
    values[place] = value
    return values


def bad_requests(shelf):
    two = prompt_of([2])
    spans = (ImageSpan(1, FULL, 1), ImageSpan(1 + FULL, FULL, 0))
    features = torch.zeros(2 * FULL, WIDTH)
    return {
        "a NaN": (Request(two, changed(shelf[:2], (1, 2, 3, 4), float("nan"))), None, "in row 1"),
        "infinite": (Request(two, changed(shelf[:2], (0, 0), float("inf"))), None, "in row 0"),
        "small tiles": (Request(two, shelf[:2, :, ::2, ::2]), None, r"needed: \(N, 3, 112, 112\)"),
        "grey tiles": (Request(two, shelf[:2, :1]), None, r"shape \(2, 1, 112, 112\)"),
        "integers": (Request(two, shelf[:2].int()), None, "dtype torch.int32"),
        "too large": (Request(prompt_of([1]), torch.full((1, 3, TILE, TILE), 3e38)), OFF, "finite"),
        "large, routed": (
            Request(prompt_of([1]), torch.full((1, 3, TILE, TILE), 3e38)), ALL, "finite",
        ),
        "narrow": (Request(two, image_features=features[:, 1:]), None, r"needed: \(N, 48\)"),
        "flat": (Request(two, image_features=features[:, 0]), None, r"needed: \(N, 48\)"),
        "NaN features": (
            Request(two, image_features=changed(features, (5, 6), float("nan"))), None, "in row 5",
        ),
        "other places": (Request(prompt_of([2], 4), shelf[:2]), None, "8 places for 2 tiles"),
        "no tile": (
            Request(Prompt(two.token_ids, spans, two.loss_mask), shelf[:1]), ABSOLUTE,
            "picture 2 has 16 places for 0 tiles",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", bad_requests(torch.zeros(2, 3, TILE, TILE)))
def test_a_bad_request_fails_alone(model, shelf, name):
    request, flash, message = bad_requests(shelf)[name]
    stage = VisionStage(model)
    stage.submit("before", request_of(shelf, [[0, 1]]), OFF)
    stage.submit("bad", request, flash)
    stage.submit("behind", request_of(shelf, [[2], [3]]), RELEASED)
    found = finish(stage)
    with pytest.raises((MediaError, PromptError), match=message):
        raise found["bad"]
    for key, flash, pictures in (("before", OFF, [[0, 1]]), ("behind", RELEASED, [[2], [3]])):
        expected = expected_features(model, request_of(shelf, pictures), flash).image_features
        assert torch.allclose(found[key].request.image_features, expected, rtol=0, atol=1e-5)
    assert is_empty(stage)


def test_a_policy_that_the_checkpoint_cannot_follow_fails_alone(base, shelf):
    stage = VisionStage(base)
    stage.submit("bad", request_of(shelf, [[0]]), RELEASED)
    stage.submit("good", request_of(shelf, [[0]]))
    found = finish(stage)
    assert isinstance(found["bad"], ConfigError)
    assert isinstance(found["good"], EncodedRequest)


def test_a_part_of_a_long_request_that_fails_takes_the_rest_with_it(model, shelf):
    tiles = changed(shelf[:9], 4, 3e38)
    stage = VisionStage(model, VisionStageSettings(3))
    stage.submit("off", Request(prompt_of([9]), tiles), OFF)
    stage.submit("routed", Request(prompt_of([9]), tiles), RELEASED)
    with counted(model) as calls:
        found = finish(stage)
    assert all(isinstance(result, MediaError) for result in found.values())
    assert len(found) == 2
    assert calls == [3, 3, 3, 3]  # in turn; of neither the last three
    assert is_empty(stage)


def test_a_device_without_memory_fails_those_whose_tiles_it_could_not_take(
    model, shelf, monkeypatch
):
    stage = VisionStage(model, VisionStageSettings(2))
    run = stage._stream.run

    def run_little(encode, pixel_values):
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(encode, pixel_values)

    monkeypatch.setattr(stage._stream, "run", run_little)
    stage.submit("large", request_of(shelf, [[0, 1]]), OFF)
    stage.submit("routed", request_of(shelf, [[2, 3]]), ALL)
    stage.submit("small", request_of(shelf, [[4]]), OFF)
    found = finish(stage)
    assert isinstance(found["large"], ServerError)  # no fault of whoever asked
    assert "no memory left" in str(found["large"])
    assert "no memory left" in str(found["routed"])
    assert found["small"].request.image_features.shape == (FULL, WIDTH)
    assert is_empty(stage)


@pytest.mark.parametrize("settings", [OFF, RELEASED], ids=str)
def test_no_memory_to_put_visual_tokens_together_fails_one_request(
    model, shelf, monkeypatch, settings
):
    stage = VisionStage(model)
    join = stage._join

    def join_one(job):
        if job.key == "large":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return join(job)

    monkeypatch.setattr(stage, "_join", join_one)
    stage.submit("large", request_of(shelf, [[0, 1]]), settings)
    stage.submit("small", request_of(shelf, [[0]]), settings)
    found = finish(stage)
    assert isinstance(found["large"], ServerError)
    assert found["small"].request.image_features is not None
    assert is_empty(stage)


def test_a_key_that_is_taken_is_refused(model, shelf):
    stage = VisionStage(model)
    for request in (request_of(shelf, [[0]]), request_of(shelf, [])):
        stage.submit("key", request)
        with pytest.raises(ValueError, match="'key' is under way"):
            stage.submit("key", request)
        stage.step()
    stage.submit("key", request_of(shelf, [[0]]))


@pytest.mark.parametrize("name", ["max_tiles_per_batch", "tiles_per_turn", "cache_bytes"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is -1; needed: "):
        VisionStageSettings(**{name: -1})


# Memory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flash", [OFF, RELEASED], ids=str)
@pytest.mark.parametrize("num_steps", [0, 1, 2, 9])
def test_a_cancelled_request_holds_no_memory(model, shelf, flash, num_steps):
    gc.disable()  # memory comes back at once, not when someone looks for cycles
    try:
        stage = VisionStage(model, VisionStageSettings(2, 2, cache_bytes=0))
        stage._stream = LateStream(model, 1)
        request = Request(prompt_of([5]), shelf[:5].clone())
        tiles = weakref.ref(request.pixel_values)
        stage.submit("gone", request, flash)
        stage.submit("stays", request_of(shelf, [[0, 1, 2, 3, 4]]), flash)
        del request
        for _ in range(num_steps):
            stage.step()
        stage.cancel("gone")
        assert tiles() is None
        assert finish(stage).keys() == ({"stays"} if num_steps < 9 else set())
        assert is_empty(stage)
        stage.cancel("gone")
    finally:
        gc.enable()


def test_what_is_done_but_not_handed_out_can_still_be_cancelled(model, shelf):
    stage = VisionStage(model)
    stage.submit("text", request_of(shelf, []))
    stage.submit("bad", Request(prompt_of([1]), shelf[:1].int()))
    stage.cancel("text")
    stage.cancel("bad")
    assert is_empty(stage)
    assert stage.step() == []


@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_a_failed_request_holds_no_memory(model, shelf, value):
    stage = VisionStage(model)
    pixel_values = torch.full((1, 3, TILE, TILE), value)
    tiles = weakref.ref(pixel_values)
    stage.submit("bad", Request(prompt_of([1]), pixel_values), OFF)
    del pixel_values
    (result,) = stage.step()
    assert isinstance(result[1], MediaError)
    assert tiles() is None


def test_features_handed_out_hold_neither_tiles_nor_the_batch(model, shelf):
    stage = VisionStage(model, VisionStageSettings(cache_bytes=10**6))
    for number in range(4):
        stage.submit(str(number), request_of(shelf, [[number]]), OFF)
    found = finish(stage)
    features = [result.request.image_features for result in found.values()]
    kept = [entry.features for entry in stage.cache._entries.values()]
    assert [part.untyped_storage().nbytes() for part in features + kept] == [TILE_BYTES] * 8
    assert len({part.data_ptr() for part in features + kept}) == 8  # and nobody writes into it


# Digests ------------------------------------------------------------------------------------------


def test_digests_tell_tiles_order_cut_and_choices_apart_and_nothing_else(model, shelf):
    stage = VisionStage(model)
    asked = {
        "a": ([[0, 1]], OFF), "a again": ([[0, 1]], OFF), "turned": ([[1, 0]], OFF),
        "cut": ([[0], [1]], OFF), "more": ([[0, 1, 2]], OFF), "short": ([[0, 1]], ALL),
        "short again": ([[0, 1]], FlashSettings("absolute", absolute_threshold=0.0)),
        "long": ([[0, 1]], FlashSettings("absolute", absolute_threshold=1.0)),
        "behind": ([[5], [0, 1]], OFF),
    }  # fmt: skip
    for key, (pictures, flash) in asked.items():
        stage.submit(key, request_of(shelf, pictures), flash)
    found = {key: result.digests for key, result in finish(stage).items()}
    assert found["a"] == found["a again"] == found["long"] == found["behind"][1:]
    assert found["short"] == found["short again"]
    distinct = [*found["a"], *found["turned"], *found["cut"], *found["more"], *found["short"]]
    assert Counter(distinct).most_common(1)[0][1] == 1
    assert {len(digest) for digest in distinct} == {32}


def test_digests_of_given_features_are_those_of_their_numbers(model):
    stage = VisionStage(model)
    features = torch.randn(2 * FULL + SHORT, WIDTH, generator=torch.Generator().manual_seed(1))
    features[FULL : 2 * FULL] = features[:FULL]
    spans = (ImageSpan(0, FULL, 1), ImageSpan(FULL, FULL, 1), ImageSpan(2 * FULL, SHORT, 1))
    prompt = Prompt((PLACE,) * len(features), spans, (False,) * len(features))
    for key, given_ones in (("a", features), ("b", features.clone()), ("c", features.bfloat16())):
        stage.submit(key, Request(prompt, image_features=given_ones))
    found = {key: result.digests for key, result in stage.step(0)}
    assert found["a"] == found["b"]
    assert found["a"][0] == found["a"][1] != found["a"][2]
    assert not set(found["a"]) & set(found["c"])


# CUDA ---------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_beside_decoding_on_a_gpu_requests_get_the_same(model, shelf):
    beside = make_flash_model().cuda()
    stage = VisionStage(beside, VisionStageSettings(4, 2))
    for number in range(6):
        stage.submit(str(number), request_of(shelf, [[number, 6, 7]]), OFF if number % 2 else ALL)
    stage.cancel("1")
    found = finish(stage, 10**6)
    assert found.keys() == set("02345")
    for key, result in found.items():
        request = request_of(shelf, [[int(key), 6, 7]])
        expected = expected_features(model, request, OFF if int(key) % 2 else ALL)
        features = result.request.image_features
        assert features.is_cuda
        assert torch.allclose(features.cpu(), expected.image_features, atol=1e-3)
