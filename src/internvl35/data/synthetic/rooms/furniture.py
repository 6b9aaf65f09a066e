"""Furniture as plans show it, seen from above: one simple symbol a kind, in four directions.

Where it stands is left to :mod:`internvl35.data.synthetic.rooms.rooms`. No counterpart in the
paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl35.data.synthetic.colours import Colour

_SCALE = 2


@dataclass(frozen=True)
class Tints:
    """Colours of a symbol."""

    line: Colour
    """Outlines."""
    body: Colour
    """What most of it is filled with."""
    detail: Colour
    """Smaller parts."""


_Draw = Callable[["_Symbol"], None]


class _Symbol:
    """A symbol being drawn; places are shares of its width and height."""

    def __init__(self, width: int, height: int, tints: Tints) -> None:
        self.size = (width * _SCALE, height * _SCALE)
        self.image = Image.new("RGBA", self.size)
        self.pen = ImageDraw.Draw(self.image)
        self.tints = tints

    def _box(self, left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
        width, height = self.size[0] - 1, self.size[1] - 1
        return (left * width, top * height, right * width, bottom * height)

    def block(
        self, left: float, top: float, right: float, bottom: float, fill: Colour, bend: float = 0
    ) -> None:
        """A rectangle whose corners are bent by a share of its shorter side."""
        box = self._box(left, top, right, bottom)
        radius = bend * min(box[2] - box[0], box[3] - box[1])
        self.pen.rounded_rectangle(box, radius, fill, self.tints.line, _SCALE)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        """A circle; the radius is a share of the shorter side."""
        reach = radius * (min(self.size) - 1)
        x, y = x * (self.size[0] - 1), y * (self.size[1] - 1)
        box = (x - reach, y - reach, x + reach, y + reach)
        self.pen.ellipse(box, fill, self.tints.line, _SCALE)

    def stroke(self, left: float, top: float, right: float, bottom: float) -> None:
        """A line."""
        self.pen.line(self._box(left, top, right, bottom), self.tints.line, _SCALE)

    def star(self, points: int, inner: float, fill: Colour) -> None:
        """A star that fills the symbol."""
        x, y = (self.size[0] - 1) / 2, (self.size[1] - 1) / 2
        corners = [
            (
                x + x * radius * math.sin(math.pi * step / points),
                y - y * radius * math.cos(math.pi * step / points),
            )
            for step, radius in enumerate((1.0, inner) * points)
        ]
        self.pen.polygon(corners, fill, self.tints.line)


def _draw_table(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body, 0.2)
    at.block(0.14, 0.18, 0.86, 0.82, at.tints.body, 0.2)


def _draw_chair(at: _Symbol) -> None:
    at.block(0.08, 0.2, 0.92, 1, at.tints.detail, 0.2)
    at.block(0, 0, 1, 0.3, at.tints.body, 0.4)


def _draw_bed(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body, 0.06)
    at.block(0.08, 0.05, 0.46, 0.24, at.tints.detail, 0.4)
    at.block(0.54, 0.05, 0.92, 0.24, at.tints.detail, 0.4)
    at.stroke(0, 0.34, 1, 0.34)
    at.stroke(0.62, 0.34, 1, 0.6)


def _draw_sofa(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body, 0.25)
    at.block(0.14, 0.34, 0.5, 0.97, at.tints.detail, 0.15)
    at.block(0.5, 0.34, 0.86, 0.97, at.tints.detail, 0.15)


def _draw_lamp(at: _Symbol) -> None:
    for x, y in ((0, 0.5), (0.5, 0), (0.15, 0.15), (0.15, 0.85)):
        at.stroke(x, y, 1 - x, 1 - y)
    at.disc(0.5, 0.5, 0.34, at.tints.body)
    at.disc(0.5, 0.5, 0.14, at.tints.detail)


def _draw_plant(at: _Symbol) -> None:
    at.star(7, 0.5, at.tints.body)
    at.disc(0.5, 0.5, 0.16, at.tints.detail)


def _draw_desk(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body)
    at.block(0.28, 0.12, 0.72, 0.5, (70, 80, 100))
    at.block(0.3, 0.5, 0.7, 0.8, at.tints.detail)
    at.stroke(0.86, 0, 0.86, 1)


def _draw_shelf(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body)
    for step in range(1, 8):
        at.stroke(step / 8, 0.05, step / 8, 0.95)
    at.block(1 / 8, 0, 2 / 8, 1, at.tints.detail)
    at.block(4 / 8, 0, 5 / 8, 1, at.tints.detail)


def _draw_sink(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body, 0.15)
    at.block(0.12, 0.3, 0.88, 0.9, at.tints.detail, 0.5)
    at.block(0.45, 0.06, 0.55, 0.48, at.tints.line)


def _draw_bath(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body, 0.1)
    at.block(0.07, 0.13, 0.93, 0.87, at.tints.detail, 0.45)
    at.disc(0.8, 0.5, 0.1, at.tints.line)


def _draw_stove(at: _Symbol) -> None:
    at.block(0, 0, 1, 1, at.tints.body)
    for x, y in ((0.28, 0.28), (0.72, 0.28), (0.28, 0.72), (0.72, 0.72)):
        at.disc(x, y, 0.17, at.tints.detail)


def _draw_fridge(at: _Symbol) -> None:
    at.block(0, 0, 1, 0.84, at.tints.body)
    at.block(0, 0.84, 1, 1, at.tints.detail)
    at.stroke(0, 0, 1, 0.84)
    at.stroke(0, 0.84, 1, 0)


def _draw_tv(at: _Symbol) -> None:
    at.block(0, 0, 1, 0.5, at.tints.body)
    at.block(0.38, 0.5, 0.62, 0.78, at.tints.line)
    at.block(0.24, 0.74, 0.76, 1, at.tints.detail)


def _draw_rug(at: _Symbol) -> None:
    for step in range(9):
        at.stroke(0, 0.04 + 0.115 * step, 1, 0.04 + 0.115 * step)
    at.block(0.08, 0, 0.92, 1, at.tints.body)
    x, y = at.size
    diamond = ((x / 2, 0.15 * y), (0.82 * x, y / 2), (x / 2, 0.85 * y), (0.18 * x, y / 2))
    at.pen.polygon(diamond, at.tints.detail, at.tints.line)


@dataclass(frozen=True)
class Kind:
    """A kind of furniture."""

    width: float
    """Usual width in pixels of a tile."""
    height: float
    """Usual height in pixels of a tile."""
    body: Colour
    """Colour of most of it."""
    detail: Colour
    """Colour of cushions, leaves and the like."""
    draw: _Draw
    """Draws it into a box."""


KINDS: dict[str, Kind] = {
    "table": Kind(38, 28, (196, 150, 96), (196, 150, 96), _draw_table),
    "chair": Kind(20, 20, (150, 96, 52), (222, 184, 138), _draw_chair),
    "bed": Kind(36, 48, (130, 168, 220), (250, 250, 250), _draw_bed),
    "sofa": Kind(48, 27, (176, 72, 84), (222, 140, 146), _draw_sofa),
    "lamp": Kind(24, 24, (252, 224, 90), (255, 252, 220), _draw_lamp),
    "plant": Kind(27, 27, (66, 160, 72), (140, 90, 50), _draw_plant),
    "desk": Kind(42, 27, (214, 180, 140), (250, 250, 250), _draw_desk),
    "shelf": Kind(50, 17, (166, 120, 78), (240, 214, 170), _draw_shelf),
    "sink": Kind(29, 25, (244, 248, 250), (188, 218, 236), _draw_sink),
    "bath": Kind(50, 28, (244, 248, 250), (150, 206, 236), _draw_bath),
    "stove": Kind(29, 29, (90, 92, 98), (220, 90, 60), _draw_stove),
    "fridge": Kind(28, 30, (216, 224, 230), (150, 160, 170), _draw_fridge),
    "tv": Kind(38, 18, (30, 32, 40), (120, 124, 130), _draw_tv),
    "rug": Kind(50, 32, (190, 110, 150), (240, 214, 150), _draw_rug),
}
"""Every kind of furniture that can stand in a room."""


def draw_symbol(
    name: str, width: int, height: int, *, tints: Tints, quarters: int = 0
) -> Image.Image:
    """Draw a piece of furniture.

    Args:
        name: key of ``KINDS``.
        width: pixels, before it is turned.
        height: pixels, before it is turned.
        tints: its colours.
        quarters: quarter turns against the clock.

    Returns:
        RGBA picture, transparent around the symbol.
    """
    symbol = _Symbol(width, height, tints)
    KINDS[name].draw(symbol)
    image = symbol.image.reduce(_SCALE)
    turns = (
        None,
        Image.Transpose.ROTATE_90,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
    )
    turn = turns[quarters % 4]
    return image if turn is None else image.transpose(turn)
