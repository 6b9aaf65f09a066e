"""Requests and reference answers that tests of the engine share."""

from __future__ import annotations

from random import Random

import torch

from internvl35.data.prompt import ImageSpan, Prompt
from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.runner import generate, generation_options
from internvl35.generate.sampling import SamplingSettings

IMAGE, PLACES, SIDE = 300, 4, 56
RULES = StopRules(end_token_ids=(2,), banned_token_ids=(300, 301, 302), pad_token_id=0)
"""Of the networks of ``tests/conftest.py``: 4 visual tokens a tile, 320 rows."""


def make_request(rng: Random, num_words: int, tiles: tuple[int, ...] = (), *, seed=0) -> Request:
    """A prompt of random words with pictures of so many tiles between them."""
    words = [rng.randrange(3, 300) for _ in range(num_words)]
    ids, spans = words[: num_words // 2], []
    for count in tiles:
        spans.append(ImageSpan(len(ids), PLACES * count, count))
        ids = [*ids, *[IMAGE] * (PLACES * count), rng.randrange(3, 300)]
    ids += words[num_words // 2 :]
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(sum(tiles), 3, SIDE, SIDE, generator=generator) if tiles else None
    return Request(Prompt(tuple(ids), tuple(spans), (False,) * len(ids)), pixels)


def draw_request(rng: Random) -> Request:
    """A prompt of 1 to 40 words with none to three pictures; pictures come from a small shelf."""
    tiles = tuple(rng.choice((1, 1, 2, 3)) for _ in range(rng.choice((0, 0, 1, 1, 2, 3))))
    return make_request(rng, rng.randint(1, 40), tiles, seed=rng.randrange(3))


def reference(model, request: Request, sampling: SamplingSettings) -> list[int]:
    """What transformers' own loop answers."""
    (answer,) = generate(model, [request], generation_options(sampling), RULES)
    return answer
