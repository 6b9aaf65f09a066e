"""Answers to one call, asked for with transformers' names: which loop answers, and what it says."""

from __future__ import annotations

from random import Random

import pytest
import torch
from engine_requests import RULES, make_request
from transformers import GenerationConfig

from internvl35.errors import ConfigError, PromptError
from internvl35.generate.runner import generate
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.single_call import answer, read, read_options


@pytest.fixture(scope="module")
def model(build_model):
    return build_model("qwen3")


@pytest.fixture(scope="module")
def requests():
    return [make_request(Random(seed), 9, (1,) * (seed % 2), seed=seed) for seed in range(4)]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 9, "do_sample": False},
        {"max_new_tokens": 9, "repetition_penalty": 1.7},
        {"max_new_tokens": 9, "eos_token_id": list(range(0, 320, 9))},
        {"max_new_tokens": 9, "eos_token_id": 30, "min_new_tokens": 4},
    ],
    ids=str,
)
def test_answers_are_those_of_transformers(model, requests, options):
    expected = [generate(model, [request], options, RULES)[0] for request in requests]
    assert answer(model, requests, options, RULES) == expected
    assert [list(read(model, request, options, RULES)) for request in requests] == expected


@pytest.mark.parametrize("options", [{"max_new_tokens": 9, "num_beams": 2}, {"max_length": 24}])
def test_transformers_own_loop_answers_what_the_engine_cannot(model, requests, options):
    for request in requests:
        expected = generate(model, [request], options, RULES)
        assert answer(model, [request], options, RULES) == expected
    # beams cannot be read while they may yet change
    if "num_beams" not in options:
        assert [list(read(model, request, options, RULES))] == expected


def test_what_the_call_leaves_open_the_checkpoint_says_and_then_transformers(model, monkeypatch):
    options = {"max_new_tokens": 5, "do_sample": True}
    plain = SamplingSettings(max_tokens=5, temperature=1.0, top_k=50)
    assert read_options(model, options) == plain
    own = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, top_k=20)
    monkeypatch.setattr(model, "generation_config", own)
    said = SamplingSettings(max_tokens=5, temperature=0.6, top_p=0.95, top_k=20)
    assert read_options(model, {"max_new_tokens": 5}) == said
    assert read_options(model, {"max_new_tokens": 5, "do_sample": False}).temperature == 0


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences", "bad_words_ids"])
def test_what_the_engine_does_not_know_goes_to_transformers(model, name):
    assert read_options(model, {"max_new_tokens": 5, name: 2}) is None
    assert read_options(model, {"max_new_tokens": 5, "num_beams": 1, "use_cache": True})


def test_torchs_seed_decides_where_the_call_names_none(model, requests):
    options = {"max_new_tokens": 9, "do_sample": True, "temperature": 3.0}

    def draw(seed):
        torch.manual_seed(seed)
        return answer(model, requests, options, RULES)

    assert draw(1) == draw(1) != draw(2)
    assert answer(model, requests, options, RULES, seed=5) == answer(
        model, requests, options, RULES, seed=5
    )


def test_rows_of_one_call_are_drawn_differently(model, requests):
    options = {"max_new_tokens": 9, "do_sample": True, "temperature": 3.0}
    found = answer(model, [requests[0]] * 3, options, RULES, seed=5)
    assert len({tuple(row) for row in found}) == 3


def test_what_is_wrong_is_said(model):
    empty = make_request(Random(0), 0)
    with pytest.raises(PromptError, match="no tokens"):
        answer(model, [empty], {"max_new_tokens": 3}, RULES)
    with pytest.raises(PromptError, match="no tokens"):
        list(read(model, empty, {"max_new_tokens": 3}, RULES))
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        answer(model, [empty], {"max_new_tokens": 0}, RULES)
