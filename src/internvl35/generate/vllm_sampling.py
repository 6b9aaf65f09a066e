"""Sampling settings in vLLM's words, and vLLM's log-probabilities in ours.

Texts are made and stop texts found by our own detokenizer, so they are not among them. Nothing here
needs vLLM to be installed; asking it is left to :mod:`internvl35.generate.vllm_engine`. No
counterpart in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from internvl35.errors import ConfigError
from internvl35.generate.answers import TokenLogprob
from internvl35.generate.grammar import read_schema
from internvl35.generate.rules import StopRules
from internvl35.generate.sampling import SamplingSettings, StructureSettings

_NUM_SEEDS = 2**62  # what fits a signed number of vLLM's messages, with room for the answers' own
_BANNED = float("-inf")
_BLANKS = r"[ \t\n\r]{0,40}"
_JSON_OPTIONS = {
    "whitespace_flexible": False, "item_separator": f"{_BLANKS},{_BLANKS}",
    "key_separator": f":{_BLANKS}", "lenient": False, "coerce_one_of": False,
}  # fmt: skip
"""A schema's own options for llguidance; that of vLLM knows no other bound of blanks."""
_LEAST_TEMPERATURE, _MOST_TEMPERATURE = 0.01, 2.0  # vLLM raises the one and refuses the other


def end_token_ids(sampling: SamplingSettings, rules: StopRules) -> tuple[int, ...]:
    """Collect the tokens that end an answer under some settings."""
    ends = () if sampling.ignore_end else rules.end_token_ids
    return (*ends, *sampling.stop_token_ids)


def sampling_arguments(
    sampling: SamplingSettings, rules: StopRules, num_rows: int, *, sample: int = 0
) -> dict[str, Any]:
    """Spell settings with the names of vLLM's ``SamplingParams``, for one of the answers.

    Every answer is a request of its own to vLLM. End tokens are named as stop tokens, banned ones
    get a bias of minus infinity.

    Args:
        sampling: how the answers are chosen.
        rules: end tokens and tokens that are never chosen.
        num_rows: rows of the embedding.
        sample: which of the answers, from 0; with a seed each has its own.

    Returns:
        Keyword arguments; the value of ``structured_outputs``, if there is one, is itself a
        dictionary of the arguments of ``StructuredOutputsParams``.

    Raises:
        ConfigError: if vLLM has no such setting or no such value, by its name, or a schema is none.
    """
    _check(sampling, num_rows)
    ends = list(end_token_ids(sampling, rules))
    bias = dict(sampling.logit_bias)
    bias |= dict.fromkeys((*rules.banned_token_ids, *sampling.banned_token_ids), _BANNED)
    arguments: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "min_tokens": sampling.min_tokens if ends else 0,
        "stop_token_ids": ends,
        "logit_bias": {token_id: value for token_id, value in bias.items() if token_id < num_rows},
        "logprobs": sampling.num_logprobs,
        "ignore_eos": True,  # ours are among the stop tokens
        "detokenize": False,
    }
    if sampling.seed is not None:
        arguments["seed"] = (sampling.seed + sample) % _NUM_SEEDS
    if sampling.num_samples > sampling.n and sampling.num_logprobs is None:
        arguments["logprobs"] = 0  # by which the likeliest are found
    if sample == 0:
        arguments["prompt_logprobs"] = sampling.num_prompt_logprobs
    if sampling.structure is not None:
        arguments["structured_outputs"] = _structure_arguments(sampling.structure)
    return arguments


def _check(sampling: SamplingSettings, num_rows: int) -> None:
    if 0 < sampling.temperature < _LEAST_TEMPERATURE or sampling.temperature > _MOST_TEMPERATURE:
        raise ConfigError(
            f"temperature is {sampling.temperature}; vLLM takes 0, and {_LEAST_TEMPERATURE} to "
            f"{_MOST_TEMPERATURE}"
        )
    named = {
        "stop_token_ids": sampling.stop_token_ids,
        "banned_token_ids": sampling.banned_token_ids,
        "logit_bias": [token_id for token_id, _ in sampling.logit_bias],
    }
    for name, token_ids in named.items():
        for token_id in token_ids:
            if not 0 <= token_id < num_rows:
                raise ConfigError(
                    f"{name} names token {token_id}; needed: 0 to {num_rows - 1}, the ids of the "
                    "model"
                )


def check_seed(sampling: SamplingSettings, config: Any) -> None:
    """Refuse a seed that vLLM would die of: its generators on a CPU cannot be set back.

    Args:
        sampling: of a request.
        config: vLLM's own.

    Raises:
        ConfigError: if random choices have a seed, and prompts may be computed in pieces on a CPU.
    """
    is_drawn = sampling.seed is not None and sampling.temperature > 0
    is_cut = config.scheduler_config.enable_chunked_prefill
    if is_drawn and is_cut and config.device_config.device_type == "cpu":
        raise ConfigError(
            "seed is set, and vLLM computes prompts in pieces on a CPU, where it would die of "
            "that; leave seed out, or take enable_chunked_prefill out of further"
        )


def _structure_arguments(structure: StructureSettings) -> dict[str, Any]:
    if structure.regex is not None:
        return {"regex": structure.regex}
    if structure.choices:
        return {"choice": list(structure.choices)}
    return {"json": json.dumps(read_schema(structure) | {"x-guidance": _JSON_OPTIONS})}


def read_logprob(found: Mapping[int, Any], token_id: int, num_top: int) -> TokenLogprob:
    """Take over what vLLM says of one token.

    Args:
        found: vLLM's ``Logprob`` of the token itself and of the likeliest ones, by their ids.
        token_id: the token.
        num_top: how many of the likeliest were asked for.

    Returns:
        The same in our words.
    """
    ranked = sorted(found.items(), key=lambda item: item[1].rank)
    top = tuple((other, float(entry.logprob)) for other, entry in ranked[:num_top])
    return TokenLogprob(token_id, float(found[token_id].logprob), top)


def read_prompt_logprobs(
    found: Sequence[Mapping[int, Any] | None],
    token_ids: Sequence[int],
    places: set[int],
    num_top: int,
) -> tuple[TokenLogprob | None, ...]:
    """Take over what vLLM says of a prompt.

    Args:
        found: as of :func:`read_logprob`, one a token; None for the first.
        token_ids: the prompt.
        places: positions of visual tokens.
        num_top: how many of the likeliest were asked for.

    Returns:
        One a token; None for the first and for places.
    """
    return tuple(
        None if entry is None or place in places else read_logprob(entry, token_id, num_top)
        for place, (token_id, entry) in enumerate(zip(token_ids, found, strict=True))
    )
