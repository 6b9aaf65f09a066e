"""Routing per request: what is chosen, what is computed, and that neighbours change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from flash_models import FULL, SHORT, TILE, make_flash_config, make_flash_model
from hypothesis import given
from hypothesis import strategies as st

from internvl35.data.token_writer import ImageSpan, Prompt
from internvl35.errors import ConfigError, PromptError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import choose_compressed, fewest_tokens, resolve_settings, route
from internvl35.generate.rules import StopRules
from internvl35.generate.runner import generate, join_pictures, stream

RULES = StopRules(end_token_ids=(1,), banned_token_ids=(635,), pad_token_id=0)
OPTIONS = {"max_new_tokens": 6, "do_sample": False}
POLICIES = [
    FlashSettings("off"),
    FlashSettings("all"),
    FlashSettings("released"),
    FlashSettings("absolute"),
    FlashSettings("released", relative_threshold=0.6, absolute_threshold=0.0),
    FlashSettings("absolute", absolute_threshold=0.02),
    None,
]


@pytest.fixture(scope="module")
def model():
    return make_flash_model()


@pytest.fixture(scope="module")
def shelf():
    """Tiles to choose from, two of them alike."""
    generator = torch.Generator().manual_seed(5)
    tiles = torch.randn(14, 3, TILE, TILE, generator=generator)
    tiles[4] = tiles[9]
    return tiles


def request_of(shelf, pictures, seed=0):
    """A prompt of random words around pictures, each a list of tiles of the shelf."""
    rng = np.random.default_rng(seed)
    ids, spans = list(rng.integers(2, 600, rng.integers(1, 9))), []
    for picture in pictures:
        spans.append(ImageSpan(len(ids), FULL * len(picture), len(picture)))
        ids += [635] * (FULL * len(picture))
        ids += list(rng.integers(2, 600, rng.integers(1, 5)))
    numbers = [tile for picture in pictures for tile in picture]
    prompt = Prompt(tuple(map(int, ids)), tuple(spans), (False,) * len(ids))
    return Request(prompt, shelf[numbers] if numbers else None)


def draw_request(shelf, rng):
    counts = rng.integers(1, 5, rng.integers(0, 4))
    return request_of(shelf, [rng.integers(0, 14, n).tolist() for n in counts], rng.integers(1000))


def same(one, other):
    """Whether two requests hold the same tokens and the same visual tokens, to the last bit."""
    pictures = [(r.pixel_values, r.image_features) for r in (one, other)]
    return (
        one.prompt == other.prompt
        and one.routing == other.routing
        and all(
            a is b is None or (a is not None and b is not None and torch.equal(a, b))
            for a, b in zip(*pictures, strict=True)
        )
    )


# Choosing -----------------------------------------------------------------------------------------


CONFIG = make_flash_config()


def choose(scores, policy, relative=None, absolute=None):
    settings = FlashSettings(policy, relative, absolute)
    return choose_compressed(torch.tensor(scores), settings, CONFIG).tolist()


def test_absolute_compresses_the_tiles_that_reach_the_threshold():
    assert choose([0.1, 0.25, 0.9, 0.24], "absolute", absolute=0.25) == [False, True, True, False]


def test_released_wants_a_score_above_the_quantile_that_reaches_the_threshold():
    scores = [0.9, 0.2, 0.6, 0.4, 0.8]
    # the quantile 0.5 is 0.6 itself, which does not beat itself
    assert choose(scores, "released", 0.5, 0.0) == [True, False, False, False, True]
    assert choose(scores, "released", 0.5, 0.85) == [True, False, False, False, False]
    assert choose(scores, "released", 0.0, 0.0) == [True, False, True, True, True]
    assert choose(scores, "released", 1.0, 0.0) == [False] * 5


def test_off_and_all_look_at_no_score():
    assert choose([0.9, 0.0], "off") == [False, False]
    assert choose([0.9, 0.0], "all") == [True, True]


@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=30),
    relative=st.floats(0, 1),
    absolute=st.floats(0, 1, width=32),
)
def test_released_is_what_numpy_says(scores, relative, absolute):
    limit = np.quantile(np.array(scores, np.float64), relative)
    found = choose(scores, "released", relative, absolute)
    for score, is_compressed in zip(scores, found, strict=True):
        if abs(score - limit) > 1e-6:  # nearer than that, rounding decides
            assert is_compressed == (score > limit and score >= absolute)


@given(score=st.floats(0, 1, width=32), relative=st.floats(0, 1))
def test_released_never_compresses_a_single_tile(score, relative):
    assert choose([score], "released", relative, 0.0) == [False]


@pytest.mark.parametrize(("num_tiles", "most"), [(2, 1), (3, 1), (5, 2), (9, 4), (13, 6)])
def test_released_compresses_at_most_the_share_above_the_quantile(num_tiles, most):
    scores = torch.linspace(0.5, 0.99, num_tiles).tolist()
    assert sum(choose(scores, "released", 0.5, 0.0)) == most


def test_equal_scores_are_never_compressed_by_released():
    assert choose([0.7] * 6, "released", 0.1, 0.0) == [False] * 6


def test_in_bfloat16_the_quantile_is_rounded_as_in_the_released_code():
    scores = torch.tensor([0.5, 0.50390625, 0.9], dtype=torch.bfloat16)
    # 0.4 of the way is 0.503125 in float32 and 0.50390625 in bfloat16, which the second does not
    # beat
    settings = FlashSettings("released", 0.4, 0.0)
    config = make_flash_config()
    assert choose_compressed(scores, settings, config).tolist() == [False, False, True]
    assert choose_compressed(scores.float(), settings, config).tolist() == [False, True, True]


# Settings -----------------------------------------------------------------------------------------


def test_a_flash_checkpoint_is_routed_as_released_and_others_not_at_all():
    config = make_flash_config()
    assert resolve_settings(None, config) == FlashSettings("released", 0.3, 0.2)
    assert resolve_settings(None, make_flash_config(flash_mode=False)) == FlashSettings("off")


def test_what_a_request_names_goes_before_the_checkpoint():
    config = make_flash_config()
    own = FlashSettings("released", absolute_threshold=0.7)
    assert resolve_settings(own, config) == FlashSettings("released", 0.3, 0.7)
    assert resolve_settings(FlashSettings("absolute"), config).absolute_threshold == 0.2


@pytest.mark.parametrize("policy", ["all", "released", "absolute"])
def test_compressing_on_a_checkpoint_without_a_router_is_refused(policy):
    with pytest.raises(ConfigError, match=r"no router.*take a Flash checkpoint"):
        resolve_settings(FlashSettings(policy), make_flash_config(flash_mode=False))


def test_a_threshold_that_nobody_names_is_asked_for():
    config = make_flash_config(flash_relative_threshold=None, flash_absolute_threshold=None)
    with pytest.raises(ConfigError, match="'absolute' needs absolute_threshold"):
        resolve_settings(FlashSettings("absolute"), config)
    with pytest.raises(ConfigError, match="'released' needs relative_threshold"):
        resolve_settings(FlashSettings("released", absolute_threshold=0.5), config)
    assert resolve_settings(FlashSettings("all"), config).policy == "all"


@pytest.mark.parametrize("value", ["off", False, {"policy": "off"}], ids=str)
def test_settings_of_another_kind_are_refused(value):
    with pytest.raises(ConfigError, match=r"flash is .*; needed: FlashSettings"):
        resolve_settings(value, make_flash_config())


@pytest.mark.parametrize("value", [-0.01, 1.5, float("nan"), "0.5", True])
@pytest.mark.parametrize("name", ["relative_threshold", "absolute_threshold"])
def test_a_threshold_outside_0_to_1_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is .*; needed: 0 to 1"):
        FlashSettings(**{name: value})


def test_an_unknown_policy_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="'some'; known: off, all, released, absolute"):
        FlashSettings("some")


# Routing ------------------------------------------------------------------------------------------


def test_prompt_visual_tokens_and_routing_fit_each_other(model, shelf):
    request = request_of(shelf, [[0, 1, 2, 3], [4], [5, 6]])
    (found,) = route(model, [request], FlashSettings("released"))
    chosen = found.routing.is_compressed
    assert 0 < sum(chosen) < 7
    needed = [
        sum(SHORT if c else FULL for c in part) for part in (chosen[:4], chosen[4:5], chosen[5:])
    ]
    assert [span.num_tokens for span in found.prompt.image_spans] == needed
    assert found.image_features.shape == (sum(needed), 48)
    assert found.pixel_values is None
    assert len(found.prompt) == len(request.prompt) - (FULL - SHORT) * sum(chosen)
    scores = model.score_tiles(model.encode_patches(request.pixel_values))
    assert found.routing.scores == pytest.approx(scores.tolist(), abs=1e-5)


@pytest.mark.parametrize("is_flash", [True, False])
def test_off_and_a_base_model_leave_requests_as_they_are(model, shelf, is_flash):
    plain = model if is_flash else make_flash_model(flash_mode=False)
    request = request_of(shelf, [[0, 1]])
    (found,) = route(plain, [request], FlashSettings("off") if is_flash else None)
    assert found is request


def test_texts_alone_are_never_encoded(model, shelf):
    request = request_of(shelf, [])
    assert route(model, [request], FlashSettings("all"))[0] is request


def test_off_gives_the_tokens_of_the_network_that_has_no_router(model, shelf):
    base = make_flash_model(flash_mode=False)
    weights = {k: v for k, v in model.state_dict().items() if k in base.state_dict()}
    base.load_state_dict(weights)
    request = request_of(shelf, [[0, 1, 2]])
    (off,) = route(model, [request], FlashSettings("off"))
    assert generate(model, [off], OPTIONS, RULES) == generate(base, [request], OPTIONS, RULES)


@pytest.mark.parametrize("seed", range(12))
def test_a_request_gets_the_same_tokens_alone_and_in_any_batch(model, shelf, seed):
    rng = np.random.default_rng(seed)
    requests = [draw_request(shelf, rng) for _ in range(rng.integers(2, 6))]
    settings = [POLICIES[n] for n in rng.integers(0, len(POLICIES), len(requests))]
    together = route(model, requests, settings)
    alone = [
        route(model, [request], own)[0] for request, own in zip(requests, settings, strict=True)
    ]
    assert all(map(same, together, alone))
    answers = generate(model, together, OPTIONS, RULES)
    assert answers == [generate(model, [one], OPTIONS, RULES)[0] for one in alone]
    assert len(set(map(tuple, answers))) > 1


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_neighbours_and_their_order_change_no_policy(model, shelf, policy):
    rng = np.random.default_rng(7)
    requests = [draw_request(shelf, rng) for _ in range(5)]
    alone = [route(model, [request], policy)[0] for request in requests]
    for _ in range(3):
        order = rng.permutation(5)
        found = route(model, [requests[n] for n in order], policy)
        assert all(same(one, alone[n]) for one, n in zip(found, order, strict=True))


def test_the_property_would_fail_for_routing_over_the_whole_batch(model, shelf):
    # what the released rule does to a batch in one call: the quantile is that of all requests
    low, high = sorted(
        ([0, 1, 2], [3, 5, 6], [7, 8, 10], [11, 12, 13]),
        key=lambda tiles: sum(scores_of(model, shelf[tiles])),
    )[::3]
    requests = [request_of(shelf, [tiles]) for tiles in (low, high)]
    settings = FlashSettings("released", 0.5, 0.0)
    alone = [route(model, [request], settings)[0].routing.is_compressed for request in requests]
    joined = torch.tensor(scores_of(model, shelf[low]) + scores_of(model, shelf[high]))
    together = choose_compressed(joined, settings, model.config).tolist()
    assert together != [*alone[0], *alone[1]]


def scores_of(model, tiles):
    with torch.inference_mode():
        return model.score_tiles(model.encode_patches(tiles)).tolist()


def test_each_request_of_a_batch_may_have_settings_of_its_own(model, shelf):
    request = request_of(shelf, [[0, 1]])
    settings = [FlashSettings("all"), FlashSettings("off"), FlashSettings("all")]
    requests = [request, request, request]
    found = route(model, requests, settings)
    assert [len(one.prompt) for one in found] == [
        len(request.prompt) - saved for saved in (2 * (FULL - SHORT), 0, 2 * (FULL - SHORT))
    ]
    answers = generate(model, found, OPTIONS, RULES)
    assert answers[0] == answers[2]
    assert answers[1] == generate(model, [request], OPTIONS, RULES)[0]
    with pytest.raises(ValueError, match="zip"):
        route(model, requests, settings[:2])


def test_a_later_picture_never_reroutes_an_earlier_one_under_absolute(model, shelf):
    pictures = [[0, 1, 2], [3], [4, 5], [6, 7, 8, 10], [9], [11, 12]]
    settings = FlashSettings("absolute", absolute_threshold=0.1)
    (whole,) = route(model, [request_of(shelf, pictures)], settings)
    for count in range(1, len(pictures)):
        (part,) = route(model, [request_of(shelf, pictures[:count])], settings)
        num_tiles = part.prompt.num_tiles
        assert part.routing.is_compressed == whole.routing.is_compressed[:num_tiles]
        assert part.routing.scores == whole.routing.scores[:num_tiles]
        # what a cache of the earlier turn was computed from: the same tokens at the same places
        assert torch.equal(part.image_features, whole.image_features[: len(part.image_features)])
        end = part.prompt.image_spans[-1].start
        assert part.prompt.token_ids[:end] == whole.prompt.token_ids[:end]
    assert 0 < whole.routing.num_compressed < whole.prompt.num_tiles


def test_a_later_picture_may_reroute_an_earlier_one_under_released(model, shelf):
    order = torch.tensor(scores_of(model, shelf[:9])).argsort().tolist()
    low, middle, high = order[0], order[4], order[-3:]
    settings = FlashSettings("released", 0.5, 0.0)
    found = [
        route(model, [request_of(shelf, pictures)], settings)[0].routing.is_compressed
        for pictures in ([[low, middle]], [[low, middle], high])
    ]
    assert found[0] == (False, True)
    assert found[1][1] is False


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float32, (False, True, True)), (torch.bfloat16, (False, False, True))],
)
def test_released_compares_in_the_dtype_of_the_weights(shelf, monkeypatch, dtype, expected):
    model = make_flash_model().to(dtype)
    monkeypatch.setattr(model, "score_tiles", lambda _: torch.tensor([0.5, 0.50390625, 0.9]))
    settings = FlashSettings("released", 0.4, 0.0)  # see the quantile above
    (found,) = route(model, [request_of(shelf, [[0, 1, 2]])], settings)
    assert found.routing.is_compressed == expected


# What is computed ---------------------------------------------------------------------------------


@pytest.fixture
def counted(model):
    """Rows that each part of the network has seen; a row is a tile."""
    seen = dict.fromkeys(("vision_tower", "multi_modal_projector", "compressed_projector"), 0)
    seen["router"] = 0
    hooks = []

    def count(name):
        def add(_module, arguments, _output):
            seen[name] += len(arguments[0])

        return add

    for name in ("vision_tower", "multi_modal_projector", "compressed_projector"):
        hooks.append(getattr(model, name).register_forward_hook(count(name)))
    hooks.append(model.router.gating.register_forward_hook(count("router")))
    yield seen
    for hook in hooks:
        hook.remove()


def test_every_tile_takes_one_branch_and_the_tower_once(model, shelf, counted):
    requests = [request_of(shelf, [[0, 1, 2, 3, 4], [5]]), request_of(shelf, [[6], [7, 8]])]
    found = route(model, requests, FlashSettings("released"))
    num_compressed = sum(one.routing.num_compressed for one in found)
    assert 0 < num_compressed < 9
    expected = {
        "vision_tower": 9, "router": 9, "compressed_projector": num_compressed,
        "multi_modal_projector": 9 - num_compressed,
    }  # fmt: skip
    assert counted == expected
    generate(model, found, OPTIONS, RULES)
    assert counted == expected


@pytest.mark.parametrize(("policy", "branch"), [("all", 3), ("off", 0)])
def test_without_a_question_the_router_is_not_asked(model, shelf, counted, policy, branch):
    (found,) = route(model, [request_of(shelf, [[0, 1, 2]])], FlashSettings(policy))
    generate(model, [found], OPTIONS, RULES)
    assert counted == {
        "vision_tower": 3, "router": 0, "compressed_projector": branch,
        "multi_modal_projector": 3 - branch,
    }  # fmt: skip


def test_the_language_model_never_sees_the_dropped_places(model, shelf):
    lengths = []
    hook = model.language_model.model.layers[0].register_forward_hook(
        lambda _module, arguments, _output: lengths.append(arguments[0].shape[1])
    )
    request = request_of(shelf, [[0, 1, 2]])
    (found,) = route(model, [request], FlashSettings("all"))
    generate(model, [found], {**OPTIONS, "max_new_tokens": 2}, RULES)
    hook.remove()
    assert lengths == [len(request.prompt) - 3 * (FULL - SHORT), 1]


# Requests -----------------------------------------------------------------------------------------


def test_streams_and_beams_work_on_routed_requests(model, shelf):
    requests = route(model, [request_of(shelf, [[0, 1, 2]]), request_of(shelf, [[3, 5]], 1)])
    expected = generate(model, requests, OPTIONS, RULES)
    assert list(stream(model, requests[0], OPTIONS, RULES)) == expected[0]
    beams = generate(model, requests, {**OPTIONS, "num_beams": 2, "max_new_tokens": 1}, RULES)
    assert len(beams) == 2


def test_a_request_whose_features_do_not_fill_its_places_is_refused(shelf):
    request = request_of(shelf, [[0, 1]])
    with pytest.raises(ValueError, match="32 places but image_features holds 20"):
        replace(request, pixel_values=None, image_features=torch.zeros(20, 48))
    with pytest.raises(ValueError, match="one of pixel_values, image_features"):
        replace(request, image_features=torch.zeros(32, 48))
    with pytest.raises(PromptError, match="places for 2 tiles but pixel_values holds 1"):
        replace(request, pixel_values=shelf[:1])


def test_pictures_of_a_batch_travel_as_tiles_while_none_is_routed(model, shelf):
    request = request_of(shelf, [[0]])
    assert set(join_pictures(model, [request, request])) == {"pixel_values"}
    assert join_pictures(model, [request_of(shelf, [])]) == {}
    (routed,) = route(model, [request], FlashSettings("all"))
    joined = join_pictures(model, [request, routed])
    assert {name: len(value) for name, value in joined.items()} == {"image_features": FULL + SHORT}


def test_the_fewest_tokens_a_prompt_can_have_are_known_before_it_is_routed(shelf):
    request, config = request_of(shelf, [[0, 1, 2], [3]]), make_flash_config()
    whole, saving = len(request.prompt), FULL - SHORT
    found = {
        policy: whole - fewest_tokens(request, FlashSettings(policy), config)
        for policy in ("off", "all", "released", "absolute")
    }
    assert found == {"off": 0, "all": 4 * saving, "released": 3 * saving, "absolute": 4 * saving}
    assert fewest_tokens(request_of(shelf, []), None, config) == len(request_of(shelf, []).prompt)
