"""Answers to the requests of one call, asked for with transformers' names.

An engine is made for the call, as large as it needs. What the engine does not know, such as beams,
goes to transformers' own loop. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from internvl35.errors import ServerError
from internvl35.generate.answers import Completion
from internvl35.generate.engine import Engine
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.runner import generate, stream
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel

_PLAIN: dict[str, Any] = {
    "temperature": 1.0, "top_p": 1.0, "top_k": 50, "min_p": 0.0, "repetition_penalty": 1.0,
}  # fmt: skip
"""What transformers takes where neither the call nor the checkpoint says anything."""

_ROUTED = FlashSettings("off")
"""Requests come routed: tiles that are still tiles stay whole."""

_HARMLESS: dict[str, Any] = {"num_beams": 1, "use_cache": True, "num_return_sequences": 1}
"""Options that change nothing as long as they have these values."""


def answer(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    options: Mapping[str, Any],
    rules: StopRules,
    *,
    seed: int | None = None,
    tokenizer: Any = None,
) -> list[list[int]]:
    """Answer several prompts at once.

    Args:
        model: in eval mode.
        requests: at least one, routed; each gets the answer that it would get alone.
        options: fields of transformers' ``GenerationConfig``.
        rules: end tokens and banned tokens.
        seed: of the draws; None to take one from torch's generator.
        tokenizer: needed if the options name ``stop_strings``.

    Returns:
        New token ids of each request, end token included.

    Raises:
        InternVLError: if a request cannot be answered.
    """
    sampling = read_options(model, options)
    if sampling is None:
        return generate(model, requests, dict(options), rules, seed=seed, tokenizer=tokenizer)
    engine = _make_engine(model, requests, sampling, rules, tokenizer)
    first = _first_seed(sampling, seed)
    each = [replace(sampling, seed=first + place) for place in range(len(requests))]
    return [_tokens_of(completion) for completion in engine.generate(requests, each, flash=_ROUTED)]


def read(
    model: VisionLanguageModel,
    request: Request,
    options: Mapping[str, Any],
    rules: StopRules,
    *,
    seed: int | None = None,
    tokenizer: Any = None,
) -> Iterator[int]:
    """Answer one prompt, token by token; closing the iterator ends the generation.

    Args:
        model: in eval mode.
        request: routed.
        options: as for :func:`answer`.
        rules: as for :func:`answer`.
        seed: as for :func:`answer`.
        tokenizer: as for :func:`answer`.

    Yields:
        New token ids, end token included.

    Raises:
        InternVLError: if the request cannot be answered.
    """
    sampling = read_options(model, options)
    if sampling is None:
        yield from stream(model, request, dict(options), rules, seed=seed, tokenizer=tokenizer)
        return
    engine = _make_engine(model, [request], sampling, rules, tokenizer)
    engine.submit(request, replace(sampling, seed=_first_seed(sampling, seed)), flash=_ROUTED)
    while engine.has_work:
        for update in engine.step():
            yield from update.token_ids
            if update.completion is not None:
                _tokens_of(update.completion)


def read_options(model: VisionLanguageModel, options: Mapping[str, Any]) -> SamplingSettings | None:
    """Say transformers' options with the engine's names.

    Args:
        model: whose checkpoint may have defaults of its own.
        options: fields of transformers' ``GenerationConfig``.

    Returns:
        Settings; None if an option has no counterpart.

    Raises:
        ConfigError: if a value is out of range.
    """
    left = {name: value for name, value in options.items() if value is not None}
    for name, value in _HARMLESS.items():
        if left.get(name, value) == value:
            left.pop(name, None)
    left.pop("pad_token_id", None)
    if "max_new_tokens" not in left:
        return None
    settings: dict[str, Any] = {"max_tokens": left.pop("max_new_tokens")}
    own = model.generation_config
    for name, plain in _PLAIN.items():
        given = left.pop(name, None)
        default = getattr(own, name, None)
        settings[name] = given if given is not None else plain if default is None else default
    if not left.pop("do_sample", getattr(own, "do_sample", None)):
        settings["temperature"] = 0.0
    if "min_new_tokens" in left:
        settings["min_tokens"] = left.pop("min_new_tokens")
    stop = left.pop("stop_strings", ())
    settings["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if "eos_token_id" in left:
        ends = left.pop("eos_token_id")
        settings["stop_token_ids"] = (ends,) if isinstance(ends, int) else tuple(ends)
        settings["ignore_end"] = True
    return None if left else SamplingSettings(**settings)


def _make_engine(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    sampling: SamplingSettings,
    rules: StopRules,
    tokenizer: Any,
) -> Engine:
    needed = sum(len(request.prompt) + sampling.max_tokens for request in requests)
    settings = EngineSettings(max_cache_tokens=needed + len(requests) * EngineSettings.block_size)
    return Engine(model, rules, tokenizer=tokenizer, settings=settings)


def _first_seed(sampling: SamplingSettings, seed: int | None) -> int:
    """Seed of the first request; a draw of torch's generator, so that its seed decides too."""
    if seed is not None or not sampling.temperature:
        return seed or 0
    return int(torch.randint(2**62, ()))


def _tokens_of(completion: Completion) -> list[int]:
    if completion.failure is not None:
        raise completion.failure
    (sample,) = completion.samples
    if sample.finish_reason == "error":
        raise ServerError(f"the answer broke off: {sample.error}")
    return list(sample.token_ids)
