"""Visual tokens of one request on their way through a gateway, tile by tile.

They are kept until the request is answered, so that another language server can have them. No
counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from internvl35.serve.messages import Block, Features


@dataclass(frozen=True)
class TileTokens:
    """What became of one tile."""

    tile: int
    """Its number, counted over all pictures."""
    is_compressed: bool
    """Whether it takes fewer tokens."""
    score: float | None
    """The router's probability for it; None if it was not asked."""
    values: Block
    """``(tokens, D)``."""


class VisualTokens:
    """Collects the visual tokens of a request; of one event loop alone.

    Args:
        num_tiles: of the request.
        sizes: tokens of a tile, and of a compressed one.
    """

    def __init__(self, num_tiles: int, sizes: tuple[int, int]) -> None:
        """Begin with all tiles missing."""
        self.error: BaseException | None = None
        self._num_tiles, self._sizes = num_tiles, sizes
        self._tiles: dict[int, TileTokens] = {}
        self._order: list[TileTokens] = []  # as they came
        self._change = asyncio.Event()

    @property
    def missing(self) -> list[int]:
        """Numbers of the tiles that are not there."""
        return [tile for tile in range(self._num_tiles) if tile not in self._tiles]

    def add(self, features: Features, wanted: Sequence[int]) -> None:
        """Take in tiles.

        Args:
            features: checked against the plan of the request.
            wanted: our numbers of the tiles that its sender was asked for, in order.
        """
        data, start = memoryview(features.values.data).cast("B"), 0
        num_tokens, width = features.values.shape
        bytes_each = len(data) // num_tokens  # of a token
        for place, is_compressed in enumerate(features.is_compressed):
            count = self._sizes[is_compressed]
            end = start + count * bytes_each
            block = Block(features.values.dtype, (count, width), data[start:end])
            score = None if features.scores is None else features.scores[place]
            tile = wanted[features.first_tile + place]
            self._tiles[tile] = TileTokens(tile, is_compressed, score, block)
            self._order.append(self._tiles[tile])
            start = end
        self._change.set()

    def forget(self, tiles: Sequence[int]) -> None:
        """Forget what came of some tiles; nobody may have read any.

        Args:
            tiles: their numbers.
        """
        for tile in tiles:
            self._tiles.pop(tile, None)
        self._order = [one for one in self._order if one.tile in self._tiles]

    def fail(self, error: BaseException) -> None:
        """Note that the rest does not come.

        Args:
            error: what readers get.
        """
        self.error = error
        self._change.set()

    async def wait(self) -> list[TileTokens]:
        """Wait for all tiles.

        Returns:
            Them, in order.

        Raises:
            InternVLError: if they do not come.
        """
        await self.read(self._num_tiles - 1)
        return [self._tiles[tile] for tile in range(self._num_tiles)]

    async def read(self, number: int) -> TileTokens:
        """Wait for the next tile.

        Args:
            number: how many of them were read before, in the order in which they came.

        Returns:
            The tile.

        Raises:
            InternVLError: if it does not come.
        """
        while len(self._order) <= number:
            if self.error is not None:
                raise self.error
            self._change.clear()
            await self._change.wait()
        return self._order[number]
