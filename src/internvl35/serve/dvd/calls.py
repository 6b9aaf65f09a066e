"""One request as a gateway keeps it while servers work on it.

No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor

from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.messages import to_block


@dataclass(frozen=True, eq=False)
class Call:
    """A request on its way."""

    request_id: str
    """By which its sender knows it."""
    wire_id: str
    """By which servers know it."""
    request: Request
    """Its prompt and its tiles as levels, ``(N, 3, side, side)`` uint8; not routed yet."""
    sampling: SamplingSettings
    """How its answers are chosen."""
    flash: FlashSettings
    """Which tiles are compressed, as far as the gateway knows."""
    cache_salt: str
    """Only requests of equal salt share what is cached."""
    priority: int
    """Lower numbers are served first."""

    @property
    def num_tiles(self) -> int:
        """Tiles of all pictures."""
        return self.request.prompt.num_tiles

    @property
    def tiles_per_picture(self) -> tuple[int, ...]:
        """Tiles of each picture."""
        return tuple(span.num_tiles for span in self.request.prompt.image_spans)

    @property
    def levels(self) -> Tensor:
        """All tiles."""
        levels = self.request.pixel_values
        assert levels is not None
        return levels

    @property
    def choices(self) -> tuple[bool, ...] | None:
        """Which tiles are compressed; None if the router has to be asked."""
        if self.flash.policy in ("off", "all") or not self.num_tiles:
            return (self.flash.policy == "all",) * self.num_tiles
        return None

    @cached_property
    def key(self) -> bytes:
        """What shares a cache: equal for equal first tiles under one salt; empty for a text."""
        if not self.num_tiles:
            return b""
        first = to_block(self.levels[0].contiguous())
        return blake2b(first.data, key=blake2b(self.cache_salt.encode()).digest()).digest()


def check_levels(request: Request) -> None:
    """Refuse tiles that are not levels: they travel as they were cut.

    Args:
        request: of a caller.

    Raises:
        ValueError: if they are not.
    """
    if request.image_features is not None:
        raise ValueError("visual tokens computed before; needed: tiles as levels in uint8")
    if request.pixel_values is not None and request.pixel_values.dtype != torch.uint8:
        raise ValueError(f"tiles are {request.pixel_values.dtype}; needed: levels in uint8")
