"""Batched and streamed generation with transformers' own loop.

Prompts of a batch are padded on the left; their tiles, or visual tokens computed before, travel in
one tensor. Tokens that stand for pictures are never sampled. Building prompts is left to
:mod:`internvl35.data.prompt`, compressing tiles to :mod:`internvl35.generate.routing`, chat to
:mod:`internvl35.chat`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation import BaseStreamer

from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.composite import VisionLanguageModel


def generation_options(sampling: SamplingSettings) -> dict[str, Any]:
    """Spell sampling settings with the names of transformers' ``GenerationConfig``."""
    options: dict[str, Any] = {
        "max_new_tokens": sampling.max_tokens,
        "do_sample": sampling.temperature > 0,
        "repetition_penalty": sampling.repetition_penalty,
    }
    if sampling.temperature > 0:
        options |= {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
        if sampling.min_p > 0:
            options["min_p"] = sampling.min_p
    if sampling.stop:
        options["stop_strings"] = list(sampling.stop)
    return options


def generate(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    options: dict[str, Any],
    rules: StopRules,
    *,
    seed: int | None = None,
    tokenizer: Any = None,
    on_token: Callable[[int], None] | None = None,
    is_cancelled: Callable[[], bool] | None = None,
) -> list[list[int]]:
    """Answer several prompts at once.

    Args:
        model: in eval mode.
        requests: at least one; each is answered as if it were alone.
        options: fields of transformers' ``GenerationConfig``.
        rules: end tokens, banned tokens, padding.
        seed: seed of the sampling; the global generator is put back afterwards.
        tokenizer: needed if the options name ``stop_strings``.
        on_token: called with every new token of a single request.
        is_cancelled: asked before every further token; True ends the answers.

    Returns:
        New token ids of each request, end token included, padding not.
    """
    inputs, config = _prepare(model, requests, options, rules, tokenizer)
    if on_token is not None:
        inputs["streamer"] = _TokenStreamer(on_token)
    if is_cancelled is not None:
        inputs["stopping_criteria"] = StoppingCriteriaList([_Cancelled(is_cancelled)])
    with torch.inference_mode(), _seeded(seed, model.input_device):
        output = model.generate(**inputs, generation_config=config)
    start = inputs["input_ids"].shape[1]
    return [_until_end(row, rules) for row in output[:, start:].tolist()]


def _prepare(
    model: VisionLanguageModel,
    requests: Sequence[Request],
    options: dict[str, Any],
    rules: StopRules,
    tokenizer: Any,
) -> tuple[dict[str, Any], GenerationConfig]:
    """Pad prompts on the left and join their pictures."""
    longest = max(len(request.prompt) for request in requests)
    device = model.input_device
    input_ids = torch.full((len(requests), longest), rules.pad_token_id)
    mask = torch.zeros_like(input_ids)
    for row, request in enumerate(requests):
        ids = torch.tensor(request.prompt.token_ids)
        input_ids[row, longest - len(ids) :] = ids
        mask[row, longest - len(ids) :] = 1
    config = GenerationConfig(
        **{
            "eos_token_id": list(rules.end_token_ids),
            "suppress_tokens": list(rules.banned_token_ids),
            **options,
            "pad_token_id": rules.pad_token_id,
        }
    )
    inputs: dict[str, Any] = {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}
    if "stop_strings" in options:
        inputs["tokenizer"] = tokenizer
    return inputs | join_pictures(model, requests), config


def join_pictures(model: VisionLanguageModel, requests: Sequence[Request]) -> dict[str, Tensor]:
    """Put the pictures of several requests into one tensor.

    Args:
        model: encodes the tiles of some requests if others carry visual tokens.
        requests: in the order of their rows.

    Returns:
        ``pixel_values``, ``image_features`` or nothing, as the network takes them.
    """
    shown = [
        request
        for request in requests
        if request.pixel_values is not None or request.image_features is not None
    ]
    if not shown:
        return {}
    tiles = [request.pixel_values for request in shown if request.pixel_values is not None]
    if len(tiles) == len(shown):
        return {"pixel_values": torch.cat(tiles)}
    with torch.inference_mode():
        features = [
            model.get_image_features(request.pixel_values).flatten(0, 1)
            if request.pixel_values is not None
            else request.image_features
            for request in shown
        ]  # of (tokens, D)
    return {"image_features": torch.cat([part for part in features if part is not None])}


def stream(
    model: VisionLanguageModel,
    request: Request,
    options: dict[str, Any],
    rules: StopRules,
    *,
    seed: int | None = None,
    tokenizer: Any = None,
) -> Generator[int]:
    """Answer one prompt, token by token; closing the iterator ends the generation.

    Args:
        model: in eval mode.
        request: the prompt.
        options: fields of transformers' ``GenerationConfig``.
        rules: end tokens, banned tokens, padding.
        seed: seed of the sampling.
        tokenizer: needed if the options name ``stop_strings``.

    Yields:
        New token ids, end token included.
    """
    tokens: SimpleQueue[int | BaseException | None] = SimpleQueue()
    is_closed = threading.Event()

    def work() -> None:
        try:
            generate(
                model, [request], options, rules, seed=seed, tokenizer=tokenizer,
                on_token=tokens.put, is_cancelled=is_closed.is_set,
            )  # fmt: skip
            tokens.put(None)
        except BaseException as error:  # noqa: BLE001 - handed to the reader, who raises it
            tokens.put(error)

    worker = threading.Thread(target=work, name="generate", daemon=True)
    worker.start()
    try:
        while (item := tokens.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        is_closed.set()
        worker.join()


def _until_end(token_ids: list[int], rules: StopRules) -> list[int]:
    for index, token_id in enumerate(token_ids):
        if token_id in rules.end_token_ids:
            return token_ids[: index + 1]
    return token_ids


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    if seed is None:
        yield
        return
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


class _TokenStreamer(BaseStreamer):
    """Hands new tokens on; the first call brings the prompt and is passed over."""

    def __init__(self, on_token: Callable[[int], None]) -> None:
        self._on_token = on_token
        self._has_seen_prompt = False

    def put(self, value: Tensor) -> None:
        if self._has_seen_prompt:
            self._on_token(int(value.reshape(-1)[0]))
        self._has_seen_prompt = True

    def end(self) -> None:
        """Nothing is held back."""


class _Cancelled(StoppingCriteria):
    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self._is_cancelled(), device=input_ids.device)
