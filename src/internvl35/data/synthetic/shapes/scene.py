"""What drawn pictures share: sizes, colours, and places that do not overlap.

Shapes are left to :mod:`internvl35.data.synthetic.shapes.things`, questions to the families. No
counterpart in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from internvl35.data.synthetic.drawing import Box, Chance
from internvl35.data.synthetic.printed.fonts import Colour

COLOURS: dict[str, Colour] = {
    "red": (214, 38, 38),
    "orange": (247, 136, 24),
    "yellow": (244, 218, 40),
    "green": (34, 150, 62),
    "blue": (38, 84, 214),
    "purple": (124, 44, 164),
    "pink": (248, 134, 190),
    "brown": (124, 68, 28),
    "black": (14, 14, 14),
    "white": (246, 246, 246),
    "grey": (134, 134, 134),
}
"""Colours that have a name here, each with the middle of the range that is drawn."""

LEAST_CONTRAST = 72
"""How far at least one of red, green and blue is from the background's, by its middle value."""

TILE_SIZE = 192
"""Side in pixels of the tile that pictures are made to stay legible in."""


@dataclass(frozen=True)
class Canvas:
    """Size of a picture to be drawn, with the grid of tiles it is made for."""

    width: int
    """Pixels."""
    height: int
    """Pixels."""
    columns: int = 1
    """Tiles side by side."""
    rows: int = 1
    """Tiles above each other."""

    @property
    def shrink(self) -> tuple[float, float]:
        """Pixels of the picture that one pixel of a thumbnail covers, across and down."""
        return self.width / TILE_SIZE, self.height / TILE_SIZE


ONE_TILE_SHARE = 0.85
"""How many hard pictures fill one tile; larger ones cost a multiple to learn from."""

_GRIDS = ((2, 1), (3, 1), (4, 1), (1, 2), (2, 2))
_GRID_WEIGHTS = (9, 6, 4, 9, 12)


def choose_canvas(chance: Chance) -> Canvas:
    """Choose the size of a picture: six in ten fill one tile, the others several.

    Args:
        chance: an easy drawing is exactly one tile.

    Returns:
        Single pictures of 150 to 260 pixels a side, large squares of 280 to 440, and long pictures
        whose sides are in a ratio near 2, 3 or 4.
    """
    rng = chance.rng
    if not chance.is_hard():
        return Canvas(TILE_SIZE, TILE_SIZE)
    if rng.random() < ONE_TILE_SHARE:
        return choose_tile_canvas(rng)
    columns, rows = rng.choices(_GRIDS, _GRID_WEIGHTS)[0]
    if columns == rows:
        width = rng.randint(280, 440)
        height = min(440, max(280, round(width * rng.uniform(0.88, 1.13))))
        return Canvas(width, height, columns, rows)
    side = rng.randint(150, 210)
    stretch = rng.uniform(0.92, 1.08)
    return Canvas(round(columns * side * stretch), round(rows * side), columns, rows)


def choose_tile_canvas(rng: random.Random) -> Canvas:
    """Choose the size of a picture that is near enough to a small square to fill one tile."""
    width = rng.randint(150, 260)
    return Canvas(width, min(260, max(150, round(width * rng.uniform(0.82, 1.22)))))


def choose_background(chance: Chance) -> Colour:
    """A plain background, light or dark, hardly coloured; see :func:`colours_on`."""
    rng = chance.rng
    if not chance.is_hard():
        return (255, 255, 255)
    grey = rng.randint(226, 255) if rng.random() < 0.6 else rng.randint(0, 40)
    red, green, blue = (min(255, max(0, grey + rng.randint(-8, 8))) for _ in range(3))
    return red, green, blue


def colours_on(background: Colour) -> list[str]:
    """Names of the colours that are not lost on a background, in the order of ``COLOURS``."""
    return [
        name
        for name, colour in COLOURS.items()
        if max(abs(one - two) for one, two in zip(colour, background, strict=True))
        >= LEAST_CONTRAST
    ]


def vary_colour(chance: Chance, name: str) -> Colour:
    """A colour that still deserves its name: somewhat lighter or darker, hardly another hue."""
    rng = chance.rng
    lighter, hue = round(10 * chance.level), round(7 * chance.level)
    shift = rng.randint(-lighter, lighter)
    red, green, blue = (
        min(255, max(0, part + shift + rng.randint(-hue, hue))) for part in COLOURS[name]
    )
    return red, green, blue


def choose_single_canvas(chance: Chance) -> Canvas:
    """Choose the size of a picture that fills one tile; an easy one is exactly that."""
    if not chance.is_hard():
        return Canvas(TILE_SIZE, TILE_SIZE)
    return choose_tile_canvas(chance.rng)


def place_boxes(
    rng: random.Random, canvas: Canvas, num: int, sides: tuple[float, float]
) -> list[Box] | None:
    """Find places for squares that neither touch each other nor the rim.

    Args:
        rng: source of chance.
        canvas: the picture.
        num: squares to place.
        sides: shortest and longest side of a square in pixels.

    Returns:
        ``num`` squares, or None if chance did not find room for all.
    """
    chosen = [round(rng.uniform(*sides)) for _ in range(num)]
    return place_sizes(rng, canvas, [(side, side) for side in chosen])


def place_sizes(
    rng: random.Random, canvas: Canvas, sizes: Sequence[tuple[int, int]]
) -> list[Box] | None:
    """Find places for boxes that neither touch each other nor the rim.

    Args:
        rng: source of chance.
        canvas: the picture.
        sizes: width and height of each box in pixels.

    Returns:
        A box for each size in the same order, or None if chance did not find room for all.
    """
    gap_x, gap_y = (max(3.0, 3 * shrink) for shrink in canvas.shrink)
    boxes: dict[int, Box] = {}
    # The largest first: small ones find room between them.
    for number in sorted(range(len(sizes)), key=lambda place: -sizes[place][0] * sizes[place][1]):
        width, height = sizes[number]
        if width + 4 > canvas.width or height + 4 > canvas.height:
            return None
        for _ in range(_NUM_TRIES):
            left = rng.randint(2, canvas.width - width - 2)
            top = rng.randint(2, canvas.height - height - 2)
            right, bottom = left + width, top + height
            if all(
                left - gap_x >= other[2]
                or right + gap_x <= other[0]
                or top - gap_y >= other[3]
                or bottom + gap_y <= other[1]
                for other in boxes.values()
            ):
                boxes[number] = (left, top, right, bottom)
                break
        else:
            return None
    return [boxes[number] for number in range(len(sizes))]


_NUM_TRIES = 16
"""Places that are tried for a box before all boxes are given up."""
