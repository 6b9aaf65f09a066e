"""JPEG compression of tiles as augmentation: text and edges as photos and scans have them.

Each tile is compressed by itself, with a quality drawn uniformly from 75 to 100, as the official
training does it. Paper section 3.1.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

QUALITIES = range(75, 101)
"""Qualities that are drawn from, Pillow's scale."""


def compress_tiles(
    tiles: Sequence[Image.Image], generator: np.random.Generator
) -> list[Image.Image]:
    """Pass every tile through JPEG.

    Args:
        tiles: in mode RGB.
        generator: the qualities are drawn from it, one a tile.

    Returns:
        The tiles as they come back, in mode RGB and of the same sizes.
    """
    drawn = generator.integers(QUALITIES.start, QUALITIES.stop, size=len(tiles))
    return [_compress(tile, int(quality)) for tile, quality in zip(tiles, drawn, strict=True)]


def _compress(tile: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    tile.save(buffer, "JPEG", quality=quality)
    with Image.open(buffer, formats=("JPEG",)) as image:
        return image.convert("RGB")
