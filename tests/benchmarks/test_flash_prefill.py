"""The benchmark of compressed prompts: what it compares, and the bounds of its medians."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from benchmarks.flash_prefill import (
    FEWEST,
    NUM_TEXT_TOKENS,
    PrefillSettings,
    cache_mib,
    compare,
    compare_writing,
    make_prompt,
    measure_prefill,
    median_interval,
    prefill,
    see,
    show,
    without_times,
)
from flash_models import FULL, SHORT, make_flash_model

from benchmarks import flash_prefill


@pytest.fixture(scope="module")
def model():
    return make_flash_model()


def test_a_prompt_has_a_place_for_every_visual_token(model):
    prompt = make_prompt(model.config, 3 * FULL + SHORT, model.device, model.dtype)
    assert prompt.input_ids.shape == (1, NUM_TEXT_TOKENS + 3 * FULL + SHORT)
    assert prefill(model, prompt).logits.shape == (1, 1, 640)


@pytest.mark.parametrize("size", [FEWEST, 9, 25])
def test_the_bounds_of_a_median_hold_it_in_95_of_100_draws_and_no_closer_ones_do(size):
    draws = np.random.default_rng(0).exponential(size=(8000, size))
    bounds = np.array([median_interval(draw) for draw in draws.tolist()])
    ordered = np.sort(draws)
    held = ((bounds[:, 0] < math.log(2)) & (math.log(2) < bounds[:, 1])).mean()
    assert held > 0.945
    place = int((ordered < bounds[:, :1]).sum(axis=1)[0]) + 1  # the next value inwards
    closer = (ordered[:, place] < math.log(2)) & (math.log(2) < ordered[:, -1 - place])
    assert closer.mean() < 0.955
    assert median_interval([1.5] * 6) == (1.5, 1.5)


def test_a_job_that_takes_longer_has_the_larger_share():
    small, large = torch.randn(60, 60), torch.randn(900, 900)
    found = compare(lambda: large @ large, lambda: small @ small, 3, is_gpu=False)
    assert found["seconds"][0] > found["seconds"][1]
    assert found["interval"][0] <= found["speedup"] <= found["interval"][1]
    assert found["speedup"] > 2


def test_writing_leaves_the_caches_as_long_as_they_were(model):
    prompts = [make_prompt(model.config, count, model.device, model.dtype) for count in (64, 16)]
    lengths = []
    hook = model.language_model.register_forward_hook(
        lambda *_: lengths.append(_[2].past_key_values.get_seq_length())
    )
    compare_writing(model, prompts, 2, 2, is_gpu=False)
    hook.remove()
    start = [NUM_TEXT_TOKENS + 64, NUM_TEXT_TOKENS + 16]
    whole, short = ([first + 1, first + 2] for first in start)
    assert lengths == start + short + whole + whole + short + short + whole


def test_the_size_of_a_cache_is_that_of_its_keys_and_values(model):
    prompt = make_prompt(model.config, 64, model.device, model.dtype)
    # one layer, one head of 24 numbers for keys and one for values, two bytes each
    assert cache_mib(model, prompt) == pytest.approx(164 * 2 * 24 * 2 / 2**20, abs=0.05)


def test_seeing_runs_the_router_only_where_tiles_may_be_compressed(model):
    rows = []
    hook = model.router.gating.register_forward_hook(
        lambda _, given, __: rows.append(len(given[0]))
    )
    tiles = torch.randn(3, 3, 112, 112)
    see(model, tiles, None)
    see(model, tiles, torch.tensor([True, False, True]))
    hook.remove()
    assert rows == [3]


def test_ratios_are_kept_and_absolute_times_are_not():
    kept = without_times(
        {"size": "1B", "prefill": {"seconds": [2.0, 1.0], "speedup": 2.0},
         "writing": {"tokens_per_second": [1.0, 2.0], "interval": [1, 3]}}
    )  # fmt: skip
    assert kept == {"size": "1B", "prefill": {"speedup": 2.0}, "writing": {"interval": [1, 3]}}


def test_everything_is_measured_on_the_prompt_that_is_asked_for(monkeypatch, capsys):
    monkeypatch.setattr(flash_prefill, "build_model", lambda size, is_gpu: make_flash_model())
    found = measure_prefill(PrefillSettings("1B", 3, 2, repeats=1, num_new_tokens=2))
    left = FULL + 2 * SHORT
    assert found["prompt_tokens"] == [NUM_TEXT_TOKENS + 3 * FULL, NUM_TEXT_TOKENS + left]
    assert found["visual_token_share"] == round(left / (3 * FULL), 4)
    assert found["prefill"]["speedup"] > 0
    show(found)
    printed = capsys.readouterr().out
    rates = [
        count / seconds
        for count, seconds in zip(found["prompt_tokens"], found["prefill"]["seconds"], strict=True)
    ]
    assert f"prompt tokens/s read: {rates[0]:.1f}, compressed {rates[1]:.1f}" in printed
