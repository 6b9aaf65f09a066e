"""Requests of the engine's benchmark: random words, random tiles, lengths drawn from ranges.

A load is drawn from its seed alone, so that every process that answers it has the same. Answers
have fixed lengths: an end token is a token like others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import torch
from torch import Tensor

from internvl35.data.prompt import ImageSpan, Prompt
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings


@dataclass(frozen=True)
class Shape:
    """What requests must know of a network."""

    image_token_id: int
    """Stands at the places of pictures."""
    num_words: int
    """Ids below this are words."""
    tokens_per_tile: int
    """Visual tokens of a tile."""
    tile_size: int
    """Pixels of a tile's side."""
    width: int
    """Numbers of a visual token."""


@dataclass(frozen=True)
class LoadSettings:
    """Which requests are drawn."""

    num_requests: int = 64
    """Requests."""
    tiles: tuple[int, int] = (1, 13)
    """Fewest and most tiles of a request's picture; 0 for none."""
    words: tuple[int, int] = (20, 500)
    """Fewest and most tokens of text."""
    new_tokens: tuple[int, int] = (16, 256)
    """Fewest and most tokens of an answer."""
    num_samples: int = 1
    """Answers to each request."""
    num_pictures: int | None = None
    """Pictures among which requests choose; None for one each."""
    num_shared_words: int = 0
    """Tokens that all prompts begin with, in front of the picture."""
    has_ready_features: bool = False
    """Whether visual tokens come with the requests, so that nobody runs the vision tower."""
    seed: int = 0
    """Seed of everything that is drawn."""


@dataclass(frozen=True)
class Asked:
    """A request with the length of its answers."""

    request: Request
    """Prompt and pictures."""
    sampling: SamplingSettings
    """How it is answered; ``n`` answers."""

    @property
    def num_tokens(self) -> int:
        """Tokens that are asked for, all answers together."""
        return self.sampling.max_tokens * self.sampling.n


MIXED = LoadSettings()
"""Requests of all lengths, each with a picture of its own."""
SHARED = replace(MIXED, num_pictures=8, num_shared_words=64)
"""The same with eight pictures in all and the same first words."""
ROLLOUTS = replace(MIXED, num_requests=32, new_tokens=(16, 128), num_samples=8)
"""Several answers to every prompt, as training by reinforcement asks for."""
WORDS = replace(MIXED, tiles=(0, 0))
"""Without pictures."""
SMALL = LoadSettings(
    num_requests=8, tiles=(1, 1), words=(20, 100), new_tokens=(16, 32), has_ready_features=True
)
"""What two cores can carry of a released shape; visual tokens are there already."""
SMALL_SEEN = replace(SMALL, has_ready_features=False)
"""The same with tiles in place of visual tokens."""


def draw_load(settings: LoadSettings, shape: Shape) -> list[Asked]:
    """Draw requests.

    Args:
        settings: which.
        shape: of the network that will answer them.

    Returns:
        Requests in the order of their arrival, greedy unless several answers are asked for; those
        have no seed, since vLLM 0.32 on a CPU ends with a prompt in pieces that has one.
    """
    chance = Random(settings.seed)
    shared = [chance.randrange(shape.num_words) for _ in range(settings.num_shared_words)]
    shelf = [
        (chance.randint(*settings.tiles), chance.randrange(2**31))
        for _ in range(settings.num_pictures or settings.num_requests)
    ]
    asked = []
    for number in range(settings.num_requests):
        num_tiles, seed = shelf[number if settings.num_pictures is None else chance.randrange(
            len(shelf)
        )]  # fmt: skip
        words = [chance.randrange(shape.num_words) for _ in range(chance.randint(*settings.words))]
        request = _draw_request(shape, shared, num_tiles, words, seed, settings)
        count = chance.randint(*settings.new_tokens)
        sampling = SamplingSettings(max_tokens=count, ignore_end=True)
        if settings.num_samples > 1:
            sampling = replace(sampling, n=settings.num_samples, temperature=1.0)
        asked.append(Asked(request, sampling))
    return asked


def _draw_request(
    shape: Shape,
    shared: list[int],
    num_tiles: int,
    words: list[int],
    seed: int,
    settings: LoadSettings,
) -> Request:
    num_places = num_tiles * shape.tokens_per_tile
    half = len(words) // 2
    before, after = (shared, words) if shared else (words[:half], words[half:])
    ids = (*before, *[shape.image_token_id] * num_places, *after)
    spans = (ImageSpan(len(before), num_places, num_tiles),) if num_tiles else ()
    prompt = Prompt(ids, spans, (False,) * len(ids))
    if not num_tiles:
        return Request(prompt)
    if settings.has_ready_features:
        return Request(prompt, image_features=_draw((num_places, shape.width), seed))
    side = shape.tile_size
    return Request(prompt, _draw((num_tiles, 3, side, side), seed))


def _draw(size: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def draw_arrivals(num_requests: int, rate: float | None, seed: int = 0) -> list[float]:
    """Draw when requests arrive.

    Args:
        num_requests: how many.
        rate: mean of arrivals a second, with gaps of no memory; None for all at once.
        seed: seed of the gaps.

    Returns:
        Seconds from the start, the first one 0.
    """
    chance = Random(seed)
    moments = [0.0]
    for _ in range(num_requests - 1):
        gap = 0.0 if rate is None else chance.expovariate(rate)
        moments.append(moments[-1] + gap)
    return moments
