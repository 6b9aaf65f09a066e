"""Fields of a body become sampling settings, and wrong ones are named."""

from __future__ import annotations

import json

import pytest

from internvl35.errors import ConfigError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.sampling import SamplingSettings, StructureSettings
from internvl35.serve.chat_sampling import read_flash, read_sampling
from internvl35.serve.fields import BodyError, Fields

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def read(defaults=None, **body):
    fields = Fields(body)
    found = read_sampling(fields, defaults or SamplingSettings())
    fields.finish()
    return found


def test_every_field_reaches_its_setting():
    found = read(
        temperature=0.7, top_p=0.9, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.5,
        frequency_penalty=-0.5, seed=7, n=2, min_tokens=3, top_k=40, max_tokens=9,
        ignore_eos=True, stop=["a", "b"], stop_token_ids=[5], logit_bias={"4": -100, "7": 2.5},
        logprobs=True, top_logprobs=3,
    )  # fmt: skip
    assert found == SamplingSettings(
        temperature=0.7, top_p=0.9, min_p=0.1, repetition_penalty=1.2, presence_penalty=0.5,
        frequency_penalty=-0.5, seed=7, n=2, min_tokens=3, top_k=40, max_tokens=9,
        ignore_end=True, stop=("a", "b"), stop_token_ids=(5,),
        logit_bias=((4, -100.0), (7, 2.5)), num_logprobs=3,
    )  # fmt: skip


def test_what_a_body_leaves_out_or_null_is_the_default():
    defaults = SamplingSettings(temperature=0.3, max_tokens=5, stop=("x",))
    assert read(defaults) == defaults
    assert read(defaults, temperature=None, stop=None, n=None) == defaults


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"max_completion_tokens": 3, "max_tokens": 9}, {"max_tokens": 3}),
        ({"max_tokens": 4.0}, {"max_tokens": 4}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"stop": "end"}, {"stop": ("end",)}),
        ({"logprobs": True}, {"num_logprobs": 0}),
        ({"logprobs": False}, {}),
        ({"logprobs": False, "top_logprobs": 0}, {}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}},
         {"structure": StructureSettings(is_json=True)}),
        ({"response_format": {"type": "json_schema", "json_schema": {
            "name": "x", "strict": True, "schema": SCHEMA}}},
         {"structure": StructureSettings(json_schema=json.dumps(SCHEMA))}),
        ({"structured_outputs": {"json": SCHEMA}},
         {"structure": StructureSettings(json_schema=json.dumps(SCHEMA))}),
        ({"structured_outputs": {"json": "{}"}}, {"structure": StructureSettings("{}")}),
        ({"structured_outputs": {"regex": "a+"}}, {"structure": StructureSettings(regex="a+")}),
        ({"structured_outputs": {"choice": ["a", "b"]}},
         {"structure": StructureSettings(choices=("a", "b"))}),
    ],
)  # fmt: skip
def test_other_spellings_mean_the_same(body, expected):
    assert read(**body) == SamplingSettings(**expected)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": "1"}, "temperature"), ({"temperature": True}, "temperature"),
        ({"temperature": float("nan")}, "temperature"), ({"top_p": 10**400}, "top_p"),
        ({"n": 1.5}, "n"), ({"n": True}, "n"), ({"seed": 2**63}, "seed"), ({"seed": "1"}, "seed"),
        ({"stop": 5}, "stop"), ({"stop": ["a", 5]}, "stop"), ({"stop": ["a"] * 33}, "stop"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": "a"}, "stop_token_ids"), ({"logit_bias": [1]}, "logit_bias"),
        ({"logit_bias": {"-1": 2}}, "logit_bias"), ({"logit_bias": {"²": 2}}, "logit_bias"),
        ({"logit_bias": {"1": "a"}}, "logit_bias.1"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"), ({"logprobs": 1}, "logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"grammar": "x"}}, "structured_outputs.grammar"),
        ({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
         "structured_outputs"),
        ({"temprature": 1}, "temprature"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(body, param):
    with pytest.raises(BodyError) as found:
        read(**body)
    assert found.value.param == param


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"temperature": -1}, "temperature"), ({"top_p": 0}, "top_p"), ({"n": 0}, "n"),
        ({"n": 10**6}, "n"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"), ({"stop": ""}, "stop"),
        ({"logit_bias": {"1": 101}}, "logit_bias"),
        ({"max_tokens": 3, "min_tokens": 4}, "min_tokens"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_with_their_field(body, param):
    with pytest.raises(ConfigError) as found:
        read(**body)
    assert isinstance(found.value, BodyError)
    assert found.value.param == param
    assert str(found.value).startswith(param)


@pytest.mark.parametrize("given", [{}, {"regex": "a", "choice": ["a"]}])
def test_no_structure_and_several_are_refused(given):
    with pytest.raises(ConfigError):
        read(structured_outputs=given)


def test_fewest_tokens_may_be_more_than_the_default_most():
    settings = read(min_tokens=10, max_tokens=20)
    assert (settings.min_tokens, settings.max_tokens) == (10, 20)


def test_flash_is_a_policy_or_an_object():
    assert read_flash(Fields({})) is None
    assert read_flash(Fields({"flash": "off"})) == FlashSettings("off")
    assert read_flash(Fields({"flash": True})) == FlashSettings("released")
    assert read_flash(Fields({"flash": False})) == FlashSettings("off")
    given = {"policy": "absolute", "absolute_threshold": 0.25}
    assert read_flash(Fields({"flash": given})) == FlashSettings("absolute", None, 0.25)
    for wrong, error in [
        ("sometimes", ConfigError), ({"policy": "off", "x": 1}, BodyError), (3, BodyError),
        ({"absolute_threshold": 2}, ConfigError),
    ]:  # fmt: skip
        with pytest.raises(error):
            read_flash(Fields({"flash": wrong}))
