"""Sizes of drawn pictures, and places in them that do not overlap.

What stands there is left to the families. No counterpart in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from internvl35.data.synthetic.drawing import Box, Chance

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
    """Choose the size of a picture: most fill one tile, the others several.

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


def choose_single_canvas(chance: Chance) -> Canvas:
    """Choose the size of a picture that fills one tile; an easy one is exactly that."""
    if not chance.is_hard():
        return Canvas(TILE_SIZE, TILE_SIZE)
    return choose_tile_canvas(chance.rng)


def choose_small_canvas(chance: Chance, *, plain: int, largest: int) -> Canvas:
    """Choose the size of one of several pictures that stand together.

    Args:
        chance: an easy picture is a square of the plain side.
        plain: that side in pixels.
        largest: longest side in pixels; the shortest is 96.
    """
    if not chance.is_hard():
        return Canvas(plain, plain)
    width = chance.rng.randint(96, largest)
    return Canvas(width, min(largest, max(96, round(width * chance.rng.uniform(0.85, 1.18)))))


def is_apart(one: Box, two: Box, gap_x: float, gap_y: float) -> bool:
    """Whether two boxes leave a gap beside or between them.

    Args:
        one: a box.
        two: another.
        gap_x: least pixels between them if they stand beside each other.
        gap_y: least pixels between them if one stands above the other.
    """
    return (
        one[0] - gap_x >= two[2]
        or one[2] + gap_x <= two[0]
        or one[1] - gap_y >= two[3]
        or one[3] + gap_y <= two[1]
    )


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


def place_on_one_tile(
    chance: Chance, num: int, sides: tuple[float, float]
) -> tuple[Canvas, list[Box]]:
    """Choose a picture that fills one tile and find places for squares in it.

    Args:
        chance: of sizes and places.
        num: squares to place.
        sides: shortest and longest side, in pixels of a picture shrunk to one tile.
    """
    while True:
        canvas = choose_single_canvas(chance)
        least, most = sides[0] * max(canvas.shrink), sides[1] * min(canvas.shrink)
        boxes = place_boxes(chance.rng, canvas, num, (least, max(least, most)))
        if boxes is not None:
            return canvas, boxes


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
            box = (left, top, left + width, top + height)
            if all(is_apart(box, other, gap_x, gap_y) for other in boxes.values()):
                boxes[number] = box
                break
        else:
            return None
    return [boxes[number] for number in range(len(sizes))]


_NUM_TRIES = 16
"""Places that are tried for a box before all boxes are given up."""
