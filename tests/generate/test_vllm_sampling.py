"""Sampling settings in vLLM's words; what it cannot do is refused by name."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from internvl35.errors import ConfigError
from internvl35.generate.answers import TokenLogprob
from internvl35.generate.rules import StopRules
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.generate.vllm_sampling import (
    check_seed,
    read_logprob,
    read_prompt_logprobs,
    sampling_arguments,
)

RULES = StopRules(end_token_ids=(7, 8), banned_token_ids=(90, 91), pad_token_id=0)
NUM_ROWS = 100


def arguments(sample=0, **fields):
    return sampling_arguments(SamplingSettings(**fields), RULES, NUM_ROWS, sample=sample)


def test_every_setting_reaches_vllm():
    """A setting that changes nothing of what vLLM is told would be passed over in silence."""
    values = {
        "max_tokens": 5, "temperature": 0.5, "top_p": 0.5, "top_k": 3, "min_p": 0.1,
        "repetition_penalty": 1.2, "seed": 4, "stop_token_ids": (9,), "min_tokens": 2,
        "ignore_end": True, "presence_penalty": 0.3, "frequency_penalty": 0.2,
        "logit_bias": ((5, 1.5),), "banned_token_ids": (6,), "num_logprobs": 2,
        "num_prompt_logprobs": 1, "structure": StructureSettings(is_json=True),
        "best_of": 3,
    }  # fmt: skip
    plain = arguments()
    for name, value in values.items():
        assert arguments(**{name: value}) != plain, name
    # n is the number of requests, stop texts are found by our own detokenizer
    names = {field.name for field in dataclasses.fields(SamplingSettings)}
    assert names - set(values) == {"n", "stop"}


def test_names_and_values_are_those_of_vllm():
    found = arguments(temperature=0.7, top_k=5, num_logprobs=4, num_prompt_logprobs=0, seed=3)
    expected = {
        "max_tokens": 1024, "temperature": 0.7, "top_k": 5, "logprobs": 4, "prompt_logprobs": 0,
        "seed": 3, "stop_token_ids": [7, 8], "ignore_eos": True, "detokenize": False,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_marks_of_pictures_and_banned_tokens_get_no_chance_whatever_their_bias():
    found = arguments(banned_token_ids=(5,), logit_bias=((5, 50.0), (90, 100.0), (6, 2.0)))
    assert found["logit_bias"] == {5: -math.inf, 6: 2.0, 90: -math.inf, 91: -math.inf}


def test_an_end_that_is_ignored_is_no_stop_token():
    assert arguments(ignore_end=True)["stop_token_ids"] == []
    assert arguments(ignore_end=True, stop_token_ids=(9,))["stop_token_ids"] == [9]
    assert arguments(stop_token_ids=(9,))["stop_token_ids"] == [7, 8, 9]
    # vLLM keeps the tokenizer's end token back as long as there are fewer
    assert arguments(ignore_end=True, min_tokens=4)["min_tokens"] == 0


def test_each_answer_has_a_seed_of_its_own_that_vllm_can_carry():
    seeds = [arguments(sample, seed=2**62 - 1, n=3)["seed"] for sample in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert arguments(seed=-1)["seed"] >= 0  # -1 is none to vLLM
    assert "seed" not in arguments()


def test_prompt_logprobs_are_computed_once_and_likelihoods_for_the_best():
    assert "prompt_logprobs" not in arguments(1, num_prompt_logprobs=2, n=2)
    assert arguments(n=2, best_of=4)["logprobs"] == 0
    assert arguments(n=2, best_of=4, num_logprobs=3)["logprobs"] == 3
    assert arguments(n=4)["logprobs"] is None


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (StructureSettings(regex="[a-z]+"), {"regex": "[a-z]+"}),
        (StructureSettings(choices=("a", "b")), {"choice": ["a", "b"]}),
    ],
)
def test_structures_keep_their_kind(structure, expected):
    assert arguments(structure=structure)["structured_outputs"] == expected


def test_json_has_the_bounded_blanks_of_our_engine_whatever_a_schema_says():
    asked = {"type": "array", "x-guidance": {"whitespace_pattern": " *"}}
    for structure, kind in (
        (StructureSettings(json_schema=json.dumps(asked)), "array"),
        (StructureSettings(is_json=True), "object"),
    ):
        found = arguments(structure=structure)["structured_outputs"]
        assert list(found) == ["json"]
        schema = json.loads(found["json"])
        options = schema.pop("x-guidance")
        assert schema == {"type": kind}
        assert options["whitespace_flexible"] is False
        for part, mark in (("item_separator", ","), ("key_separator", ":")):
            for text in (mark, f"{mark} ", f"{mark}\n{' ' * 8}"):
                assert re.fullmatch(options[part], text)
            assert re.fullmatch(options[part], mark + " " * 41) is None
    with pytest.raises(ConfigError, match="json_schema is no JSON"):
        arguments(structure=StructureSettings(json_schema="{"))


def test_llguidance_follows_these_bounds():
    llguidance = pytest.importorskip("llguidance")
    fields = {"a": {"const": 1}, "b": {"const": 2}}
    asked = json.dumps({"type": "object", "properties": fields, "required": ["a", "b"]})
    found = arguments(structure=StructureSettings(json_schema=asked))["structured_outputs"]
    # as vLLM's backend does, which allows blanks by default
    options = {"whitespace_flexible": True}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(found["json"], defaults=options)
    tokenizer = llguidance.LLTokenizer("byte")

    def is_taken(text):
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        ids = tokenizer.tokenize_str(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()

    assert is_taken('{"a":1,"b":2}')
    assert is_taken('{"a": 1,\n "b": 2}')
    assert is_taken('{"a":1,' + " " * 40 + '"b":2}')
    assert not is_taken('{"a":1,' + " " * 41 + '"b":2}')
    assert not is_taken('{"a":' + " " * 41 + '1,"b":2}')


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 2.5}, "temperature is 2.5; vLLM takes 0, and 0.01 to 2.0"),
        ({"temperature": 0.001}, "temperature is 0.001"),
        ({"stop_token_ids": (100,)}, "stop_token_ids names token 100; needed: 0 to 99"),
        ({"banned_token_ids": (-1,)}, "banned_token_ids names token -1"),
        ({"logit_bias": ((400, 1.0),)}, "logit_bias names token 400"),
    ],
)
def test_what_vllm_cannot_do_is_refused_by_name(fields, message):
    with pytest.raises(ConfigError, match=message):
        arguments(**fields)


def entry(logprob, rank):
    return SimpleNamespace(logprob=logprob, rank=rank)


def test_the_likeliest_tokens_come_in_their_order():
    found = {4: entry(-3.0, 9), 11: entry(-0.5, 1), 12: entry(-1.0, 2)}
    assert read_logprob(found, 4, 2) == TokenLogprob(4, -3.0, ((11, -0.5), (12, -1.0)))
    assert read_logprob(found, 11, 0) == TokenLogprob(11, -0.5)


def test_places_of_pictures_have_no_logprob():
    found = [None, {5: entry(-1.0, 1)}, {90: entry(-9.0, 50)}, {6: entry(-2.0, 1)}]
    read = read_prompt_logprobs(found, (4, 5, 90, 6), {2}, 0)
    assert read == (None, TokenLogprob(5, -1.0), None, TokenLogprob(6, -2.0))


@pytest.mark.parametrize(
    ("device", "is_cut", "fields", "is_refused"),
    [
        ("cpu", True, {"seed": 1, "temperature": 1.0}, True),
        ("cpu", True, {"seed": 1, "temperature": 0.0}, False),
        ("cpu", True, {"temperature": 1.0}, False),
        ("cpu", False, {"seed": 1, "temperature": 1.0}, False),
        ("cuda", True, {"seed": 1, "temperature": 1.0}, False),
    ],
)
def test_a_seed_is_refused_only_where_vllm_would_die_of_it(device, is_cut, fields, is_refused):
    config = SimpleNamespace(
        scheduler_config=SimpleNamespace(enable_chunked_prefill=is_cut),
        device_config=SimpleNamespace(device_type=device),
    )
    expected = pytest.raises(ConfigError, match="leave seed out") if is_refused else nullcontext()
    with expected:
        check_seed(SamplingSettings(**fields), config)
