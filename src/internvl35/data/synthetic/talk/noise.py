"""What photograph-like pictures are painted from: noise, dull colours, blends.

Pictures are left to :mod:`internvl35.data.synthetic.talk.photographs`. No counterpart in the paper.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.floating[Any]]
"""Shares or shades, not yet whole numbers."""


def fractal_noise(rng: np.random.Generator, width: int, height: int, smooth: float = 2.0) -> Floats:
    """Noise with coarse and fine parts.

    Args:
        rng: source of chance.
        width: pixels.
        height: pixels.
        smooth: how many times as strong each part is as one of half its size.

    Returns:
        ``(height, width)``, from 0 to 1.
    """
    total = np.zeros((height, width), np.float32)
    cells, weight = 2, 1.0
    stretch = rng.uniform(0.6, 1.8)
    while cells < 100:
        grid = rng.random((max(2, round(cells * stretch)), cells), np.float32)
        layer = Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(layer)
        cells, weight = cells * 2, weight / smooth
    total -= total.min()
    share: Floats = total / np.float32(max(float(total.max()), 1e-6))
    return share


def choose_colour(rng: np.random.Generator, low: int = 0, high: int = 256) -> Floats:
    """A colour, more often dull than bright, as those of photographs are.

    Args:
        rng: source of chance.
        low: least of red, green and blue.
        high: what all of them stay below.
    """
    bright = rng.integers(low, high, 3).astype(np.float32)
    grey = np.float32(bright.mean())
    dull: Floats = grey + np.float32(rng.uniform(0.1, 1.0)) * (bright - grey)
    return dull


def blend(share: Floats, zero: Floats, one: Floats) -> Floats:
    """Colours between two, by a share a pixel; of shape ``(height, width, 3)``."""
    return zero + share[..., None] * (one - zero)


def to_image(pixels: Floats) -> Image.Image:
    """Make a picture of red, green and blue from 0 to 255; what lies outside is cut off."""
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def to_ink(colour: Floats) -> tuple[int, int, int]:
    """Round a colour for a pen."""
    red, green, blue = (int(part) for part in np.clip(colour, 0, 255))
    return red, green, blue
