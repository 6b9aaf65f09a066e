"""Pictures of formulas, drawn by matplotlib's mathtext in its own fonts.

Choosing formulas is left to ``make_data.py``. A picture is one tile of the embedded checkpoint high
and one to three wide, so that print reaches the model as it was drawn, without being resized.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass

import numpy as np
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from PIL import Image

TILE = 112
"""Side of the embedded checkpoint's tile, pixels."""
FONTS = ("dejavusans", "dejavuserif", "cm", "stix", "stixsans")
"""Mathtext's font sets, all of which matplotlib brings along."""
_MARGIN = 4

logging.getLogger("matplotlib.mathtext").setLevel(logging.ERROR)  # letters that a font lacks


@dataclass(frozen=True)
class Style:
    """How a formula is printed."""

    font: str
    """One of ``FONTS``."""
    size: float
    """Font size in pixels; a capital is about 0.7 of it high."""
    ink: int
    """Grey level of the print, 0 to 255."""
    paper: int
    """Grey level of the ground, 0 to 255."""
    x: float
    """Place between the left and the right edge, 0 to 1."""
    y: float
    """Place between the upper and the lower edge, 0 to 1."""


def choose_style(rng: random.Random, sizes: tuple[float, float]) -> Style:
    """Choose a style by chance.

    Args:
        rng: source of chance.
        sizes: smallest and largest font size, pixels.

    Returns:
        A dark print on a light ground.
    """
    return Style(
        font=rng.choice(FONTS),
        size=round(rng.uniform(*sizes), 1),
        ink=rng.randint(0, 70),
        paper=rng.randint(205, 255),
        x=rng.random(),
        y=rng.uniform(0.35, 0.65),
    )


def draw_formula(formula: str, style: Style, max_columns: int = 2) -> Image.Image | None:
    """Draw a formula.

    Args:
        formula: LaTeX without dollar signs.
        style: how it is printed.
        max_columns: most tiles the picture is wide.

    Returns:
        A picture in mode L, or None if mathtext does not know the formula or it does not fit.
    """
    font = FontProperties(size=style.size, math_fontfamily=style.font)
    try:
        print_ = MathTextParser("agg").parse(f"${formula}$", dpi=72, prop=font)
    except (ValueError, RuntimeError):
        return None
    mask = np.asarray(print_.image)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = mask.shape
    num_tiles = -(-(width + 2 * _MARGIN) // TILE)
    if num_tiles > max_columns or height + 2 * _MARGIN > TILE:
        return None
    left = _MARGIN + round(style.x * (num_tiles * TILE - 2 * _MARGIN - width))
    top = _MARGIN + round(style.y * (TILE - 2 * _MARGIN - height))
    levels = np.full((TILE, num_tiles * TILE), style.paper, dtype=np.float32)
    share = mask.astype(np.float32) / 255
    levels[top : top + height, left : left + width] += share * (style.ink - style.paper)
    return Image.fromarray(levels.round().astype(np.uint8))
