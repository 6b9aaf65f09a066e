"""Sampling settings: what is refused, and how they are spelt for transformers."""

import pytest

from internvl35.errors import ConfigError
from internvl35.generate.runner import generation_options
from internvl35.generate.sampling import SamplingSettings


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"min_p": 2.0},
        {"repetition_penalty": 0.0},
        {"stop": ("",)},
    ],
)
def test_a_value_out_of_range_is_refused_by_name(options):
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} is .*needed"):
        SamplingSettings(**options)


def test_temperature_zero_is_greedy_and_takes_no_sampling_options():
    options = generation_options(SamplingSettings(max_tokens=5))
    assert options == {"max_new_tokens": 5, "do_sample": False, "repetition_penalty": 1.0}


def test_sampling_options_keep_their_values():
    settings = SamplingSettings(temperature=0.6, top_p=0.95, top_k=20, min_p=0.1)
    options = generation_options(settings)
    assert options["do_sample"] is True
    found = (options["temperature"], options["top_p"], options["top_k"], options["min_p"])
    assert found == (0.6, 0.95, 20, 0.1)
