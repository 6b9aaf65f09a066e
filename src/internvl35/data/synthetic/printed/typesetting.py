"""Lines of print on a picture: colours that stand out, sizes that stay legible, places.

Rendering characters is left to :mod:`internvl35.data.synthetic.printed.fonts`, what they say to the
families. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from internvl35.data.synthetic.canvas import TILE_SIZE, Canvas
from internvl35.data.synthetic.colours import Colour, brightness
from internvl35.data.synthetic.drawing import Box, Chance
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import cap_share, load_glyph, print_line, text_width

MIN_CONTRAST = 95.0
"""Least difference in brightness, 0 to 255, of print and paper."""

_BASIS = 100
_MARGIN = 3


@dataclass(frozen=True)
class Legible:
    """How small print may get, in pixels that remain when the whole picture is one tile."""

    cap_height: float
    """Height of a capital."""
    advance: float
    """Mean width of a character of the longest line."""
    largest: float = 60.0
    """Height of the tallest capitals."""


@dataclass(frozen=True)
class Block:
    """Lines in one font, ready to be printed."""

    lines: tuple[str, ...]
    """From top to bottom."""
    font: str
    """Name of the font."""
    size: int
    """Pixels of its em."""
    pitch: int
    """Pixels from base line to base line."""
    align: float = 0.0
    """0 sets the lines flush left, 0.5 in the middle, 1 flush right."""

    @cached_property
    def ink(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the ink, seen from the left end of the first base line."""
        boxes = [
            (left + indent, top + drop, right + indent, bottom + drop)
            for line, (indent, drop) in zip(self.lines, self._starts(), strict=True)
            for left, top, right, bottom in (ink_box(line, self.font, self.size),)
        ]
        lefts, tops, rights, bottoms = zip(*boxes, strict=True)
        return min(lefts), min(tops), max(rights), max(bottoms)

    def print_at(self, image: Image.Image, left: int, top: int, ink: Colour) -> tuple[Mark, ...]:
        """Print the lines.

        Args:
            image: RGB picture that is drawn into.
            left: of the ink, pixels.
            top: of the ink, pixels.
            ink: colour.

        Returns:
            One mark a character.
        """
        edge, height, _, _ = self.ink
        marks: list[Mark] = []
        for line, (indent, drop) in zip(self.lines, self._starts(), strict=True):
            start = (left - edge + indent, top - height + drop)
            marks += print_line(image, line, self.font, self.size, start, ink)
        return tuple(marks)

    def _starts(self) -> list[tuple[int, int]]:
        widths = [text_width(line, self.font, self.size) for line in self.lines]
        return [
            (round(self.align * (max(widths) - width)), number * self.pitch)
            for number, width in enumerate(widths)
        ]


def ink_box(line: str, font: str, size: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a line's ink, seen from the left end of its base line."""
    pen = 0
    left, top, right, bottom = size, 0, 0, -size
    for letter in line:
        glyph = load_glyph(font, size, letter)
        width, height = glyph.mask.size
        if width:
            left = min(left, pen + glyph.left)
            right = max(right, pen + glyph.left + width)
            top = min(top, glyph.top)
            bottom = max(bottom, glyph.top + height)
        pen += glyph.advance
    return left, top, right, bottom


def choose_inks(chance: Chance) -> tuple[Colour, Colour]:
    """Choose the colours of print and paper; easy print is black on white."""
    rng = chance.rng
    if not chance.is_hard():
        return (0, 0, 0), (255, 255, 255)
    style = rng.random()
    if style < 0.55:
        dark, light = (rng.randint(0, 70),) * 3, (rng.randint(200, 255),) * 3
        return (dark, light) if style < 0.4 else (light, dark)
    while True:
        red, green, blue, *paper = (rng.randrange(256) for _ in range(6))
        ink, ground = (red, green, blue), (paper[0], paper[1], paper[2])
        if abs(brightness(ink) - brightness(ground)) >= MIN_CONTRAST:
            return ink, ground


def set_block(
    chance: Chance,
    lines: Sequence[str],
    font: str,
    canvas: Canvas,
    legible: Legible,
    *,
    align: float = 0.0,
) -> Block | None:
    """Choose a size at which lines are legible and fit a picture.

    Args:
        chance: easy print is about as large as fits.
        lines: from top to bottom.
        font: name of the font.
        canvas: size of the picture.
        legible: how small and how large the print may be.
        align: see ``Block.align``.

    Returns:
        The lines, or None if no size is large enough and fits.
    """
    rng = chance.rng
    leading = rng.uniform(1.15, 1.6) if chance.is_hard() else 1.4
    low, high = _size_range(lines, font, canvas, legible, leading)
    if low > high:
        return None
    if chance.is_hard():
        size = low * (high / low) ** rng.random()
    else:
        size = rng.uniform(0.4 * low + 0.6 * high, high)
    step = max(1, int(size / 12))  # few sizes, so that most characters are rendered before
    rounded = max(low, int(size) // step * step)
    return Block(tuple(lines), font, rounded, round(leading * rounded), align)


def _size_range(
    lines: Sequence[str], font: str, canvas: Canvas, legible: Legible, leading: float
) -> tuple[int, int]:
    cap = cap_share(font)
    boxes = [ink_box(line, font, _BASIS) for line in lines]
    width = max(box[2] - box[0] for box in boxes) / _BASIS
    advance = max((box[2] - box[0]) / len(line) for box, line in zip(boxes, lines, strict=True))
    height = (boxes[-1][3] - boxes[0][1]) / _BASIS + leading * (len(lines) - 1)
    across, down = canvas.shrink
    low = max(legible.cap_height * down / cap, legible.advance * across * _BASIS / advance)
    high = min(
        legible.largest * canvas.height / (TILE_SIZE * canvas.rows) / cap,
        (canvas.width - 2 * _MARGIN - 3) / width / 1.02,  # rounding widens small print
        (canvas.height - 2 * _MARGIN - 3) / height / 1.02,
    )
    return math.ceil(low), math.floor(high)


def place_block(chance: Chance, block: Block, canvas: Canvas) -> tuple[int, int]:
    """Choose where the ink of a block begins; an easy one stands in the middle.

    Args:
        chance: source of chance.
        block: what is to be printed.
        canvas: the picture; the block fits in.

    Returns:
        Left and top in pixels.
    """
    left, top, right, bottom = block.ink
    room_x, room_y = canvas.width - (right - left), canvas.height - (bottom - top)
    if not chance.is_hard():
        return room_x // 2, room_y // 2
    return (
        chance.rng.randint(min(_MARGIN, room_x // 2), max(room_x // 2, room_x - _MARGIN)),
        chance.rng.randint(min(_MARGIN, room_y // 2), max(room_y // 2, room_y - _MARGIN)),
    )


def bound_marks(marks: Sequence[Mark]) -> Box:
    """The smallest box around all marks."""
    lefts, tops, rights, bottoms = zip(*(mark.box for mark in marks), strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)
