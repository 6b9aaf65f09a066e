"""Pictures of few tiles encoded in the gateway's own process, which saves them a way.

Batches are put together in :mod:`internvl35.generate.vision`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import torch

from internvl35.data.tiles import normalize_levels
from internvl35.generate.request import Request
from internvl35.generate.vision_thread import VisionThread
from internvl35.serve.dvd.calls import Call
from internvl35.serve.dvd.visual_tokens import VisualTokens
from internvl35.serve.messages import Features, to_block


@dataclass(frozen=True)
class LocalEncoder:
    """Encodes small requests here; it is closed by who made it."""

    thread: VisionThread
    """Holds the vision part of the checkpoint."""
    max_tiles: int
    """Most tiles of a request that is encoded here."""
    dtype: torch.dtype
    """Of visual tokens on the wire."""

    def takes(self, call: Call) -> bool:
        """Whether a request is small enough."""
        return call.num_tiles <= self.max_tiles

    async def encode(self, call: Call, tokens: VisualTokens) -> None:
        """Encode the tiles of a request.

        Args:
            call: has tiles.
            tokens: takes what comes of them, and what went wrong.
        """
        try:
            pixels = await asyncio.to_thread(normalize_levels, call.levels.numpy())
            request = Request(call.request.prompt, pixels)
            future = self.thread.encode(request, call.flash, cache_salt=call.cache_salt)
            found = (await asyncio.wrap_future(future)).request
            assert found.image_features is not None
            routing = found.routing
            choices = (False,) * call.num_tiles if routing is None else routing.is_compressed
            scores = None if routing is None else routing.scores
            values = to_block(found.image_features.to(self.dtype))
            all_tiles = Features(call.wire_id, 0, call.num_tiles, choices, scores, values)
            tokens.add(all_tiles, range(call.num_tiles))
        except Exception as error:  # noqa: BLE001 - whoever waits for the tokens raises it
            tokens.fail(error)
