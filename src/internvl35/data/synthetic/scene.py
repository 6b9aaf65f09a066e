"""What drawn pictures share: sizes, colours, shapes, and places that do not overlap.

Questions and answers are left to the families. No counterpart in the paper.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl35.data.synthetic.drawing import Box, Chance
from internvl35.data.synthetic.fonts import Colour
from internvl35.data.synthetic.labels import Mark

COLOURS: dict[str, Colour] = {
    "red": (214, 38, 38),
    "orange": (247, 136, 24),
    "yellow": (244, 218, 40),
    "green": (34, 150, 62),
    "blue": (38, 84, 214),
    "purple": (124, 44, 164),
    "pink": (248, 134, 190),
}
"""Colours that have a name here, each with the middle of the range that is drawn."""

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


@dataclass(frozen=True)
class Thing:
    """A coloured shape at a place."""

    colour: str
    """Key of ``COLOURS``."""
    shape: str
    """One of ``SHAPES``."""
    box: Box
    """Square that the shape is drawn in."""


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
    """A plain background that no named colour is lost on: light or dark, hardly coloured."""
    rng = chance.rng
    if not chance.is_hard():
        return (255, 255, 255)
    grey = rng.randint(226, 255) if rng.random() < 0.6 else rng.randint(0, 40)
    red, green, blue = (min(255, max(0, grey + rng.randint(-8, 8))) for _ in range(3))
    return red, green, blue


def vary_colour(chance: Chance, name: str) -> Colour:
    """A colour that still deserves its name."""
    spread = round(14 * chance.level)
    red, green, blue = (
        min(255, max(0, part + chance.rng.randint(-spread, spread))) for part in COLOURS[name]
    )
    return red, green, blue


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
    gap_x, gap_y = (max(2.0, 2 * shrink) for shrink in canvas.shrink)
    boxes: list[Box] = []
    for _ in range(12 * num):
        side = round(rng.uniform(*sides))
        if side + 4 > canvas.width or side + 4 > canvas.height:
            return None
        left = rng.randint(2, canvas.width - side - 2)
        top = rng.randint(2, canvas.height - side - 2)
        right, bottom = left + side, top + side
        if all(
            left - gap_x >= other[2]
            or right + gap_x <= other[0]
            or top - gap_y >= other[3]
            or bottom + gap_y <= other[1]
            for other in boxes
        ):
            boxes.append((left, top, right, bottom))
            if len(boxes) == num:
                return boxes
    return None


_STAR = tuple(
    (math.sin(math.pi * step / 5) * radius, -math.cos(math.pi * step / 5) * radius)
    for step, radius in enumerate((1.0, 0.42) * 5)
)
_CROSS = (
    (-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32),
    (0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32),
)  # fmt: skip
_HEART = tuple(
    (
        math.sin(2 * math.pi * step / 40) ** 3,
        -(13 * math.cos(angle) - 5 * math.cos(2 * angle) - 2 * math.cos(3 * angle)) / 16,
    )
    for step in range(40)
    for angle in (2 * math.pi * step / 40,)
)
_OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)),
    "triangle": ((0.0, -0.92), (1.0, 0.86), (-1.0, 0.86)),
    "diamond": ((0.0, -1.0), (0.8, 0.0), (0.0, 1.0), (-0.8, 0.0)),
    "star": _STAR,
    "rectangle": ((-1.0, -0.55), (1.0, -0.55), (1.0, 0.55), (-1.0, 0.55)),
    "cross": _CROSS,
    "heart": _HEART,
}
_SCALE = 2


def draw_things(chance: Chance, canvas: Canvas, things: Sequence[Thing]) -> Image.Image:
    """Draw coloured shapes on a plain background.

    Args:
        chance: of background and shades; an easy drawing has plain colours on white.
        canvas: size of the picture.
        things: what to draw where.

    Returns:
        RGB picture of the canvas' size, edges smoothed.
    """
    size = (canvas.width * _SCALE, canvas.height * _SCALE)
    image = Image.new("RGB", size, choose_background(chance))
    pen = ImageDraw.Draw(image)
    for thing in things:
        left, top, right, bottom = (_SCALE * edge for edge in thing.box)
        fill = vary_colour(chance, thing.colour)
        if thing.shape == "circle":
            pen.ellipse((left, top, right - 1, bottom - 1), fill=fill)
            continue
        middle_x, middle_y, radius = (
            (left + right - 1) / 2,
            (top + bottom - 1) / 2,
            (right - left - 1) / 2,
        )
        pen.polygon(
            [(middle_x + x * radius, middle_y + y * radius) for x, y in _OUTLINES[thing.shape]],
            fill=fill,
        )
    return image.reduce(_SCALE)


def _ink_box(thing: Thing) -> Box:
    """Whole pixels that a shape fills, in part or in full."""
    left, top, right, bottom = thing.box
    if thing.shape == "circle":
        return thing.box
    xs, ys = zip(*_OUTLINES[thing.shape], strict=True)
    x, y, radius = (left + right) / 2, (top + bottom) / 2, (right - left) / 2
    return (
        max(left, math.floor(x + min(xs) * radius - 0.25)),  # corners are rounded to half pixels
        max(top, math.floor(y + min(ys) * radius - 0.25)),
        min(right, math.ceil(x + max(xs) * radius + 0.25)),
        min(bottom, math.ceil(y + max(ys) * radius + 0.25)),
    )


def mark_things(things: Sequence[Thing]) -> tuple[Mark, ...]:
    """Two marks a thing, its colour and its shape, around the pixels it fills."""
    return tuple(
        Mark(label, _ink_box(thing))
        for thing in things
        for label in (f"colour:{thing.colour}", f"shape:{thing.shape}")
    )
