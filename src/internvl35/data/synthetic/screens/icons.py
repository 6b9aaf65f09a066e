"""Simple icons, drawn by code at any size in several styles.

What an icon means on a screen is left to :mod:`internvl35.data.synthetic.screens.screen_words`. No
counterpart in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageChops, ImageDraw, ImageFilter

from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Box, Pool
from internvl35.data.synthetic.labels import Mark


@dataclass(frozen=True)
class IconStyle:
    """How all icons of one screen are drawn."""

    name: str
    """For tests and figures."""
    stroke: float
    """Width of lines as a share of the icon's side."""
    fill: float
    """How much of the ink fills the bodies: 1 all, 0 none."""


ICON_STYLES: Pool[IconStyle] = Pool(
    "icon style",
    (
        IconStyle("filled", 0.13, 1.0),
        IconStyle("outline", 0.09, 0.0),
        IconStyle("thick", 0.14, 0.0),
    ),
    (IconStyle("duotone", 0.11, 0.4),),
)
"""Ways to draw icons; one is kept for the test."""

_Piece = tuple[str, tuple[float, ...]]
"""``polygon``, ``disc`` (x, y, radius), ``box`` (left, top, right, bottom) and ``bite`` (a disc
that is taken away) make the body; ``line`` is always ink; ``score`` (a line), ``hole`` (a disc) and
``slot`` (a box) are spared in a filled body and outlined otherwise. Shares of the side."""


def _gear() -> tuple[float, ...]:
    points: list[float] = []
    for tooth in range(8):
        for offset, radius in ((-0.27, 0.32), (-0.17, 0.45), (0.17, 0.45), (0.27, 0.32)):
            angle = math.tau * tooth / 8 + offset
            points += [0.5 + radius * math.sin(angle), 0.5 - radius * math.cos(angle)]
    return tuple(points)


def _star() -> tuple[float, ...]:
    points: list[float] = []
    for step, radius in enumerate((0.48, 0.2) * 5):
        angle = math.pi * step / 5
        points += [0.5 + radius * math.sin(angle), 0.53 - radius * math.cos(angle)]
    return tuple(points)


def _heart() -> tuple[float, ...]:
    points: list[float] = []
    for step in range(40):
        turn = math.tau * step / 40
        height = 13 * math.cos(turn) - 5 * math.cos(2 * turn) - 2 * math.cos(3 * turn)
        points += [0.5 + 0.44 * math.sin(turn) ** 3, 0.46 - 0.44 * height / 16]
    return tuple(points)


def _half_disc(x: float, y: float, radius: float) -> tuple[float, ...]:
    """The upper half of a disc, as corners of a polygon."""
    angles = [math.pi * step / 16 for step in range(17)]
    return tuple(
        side
        for angle in angles
        for side in (x + radius * math.cos(angle), y - radius * math.sin(angle))
    )


def _rays() -> tuple[_Piece, ...]:
    angles = [math.tau * step / 8 for step in range(8)]
    return tuple(
        (
            "line",
            tuple(
                0.5 + radius * part
                for radius in (0.35, 0.43)
                for part in (math.sin(angle), math.cos(angle))
            ),
        )
        for angle in angles
    )


def _arrow(quarters: int) -> tuple[_Piece, ...]:
    """An arrow to the right, turned clockwise by quarters of a circle."""

    def turned(*points: float) -> tuple[float, ...]:
        out = list(points)
        for _ in range(quarters):
            out = [side for x, y in zip(out[::2], out[1::2], strict=True) for side in (1 - y, x)]
        return tuple(out)

    return (
        ("line", turned(0.12, 0.5, 0.82, 0.5)),
        ("line", turned(0.52, 0.16, 0.86, 0.5, 0.52, 0.84)),
    )


_PIECES: dict[str, tuple[_Piece, ...]] = {
    "house": (
        ("polygon", (0.04, 0.5, 0.5, 0.08, 0.96, 0.5, 0.82, 0.5, 0.82, 0.92, 0.18, 0.92, 0.18,
                     0.5)),
        ("slot", (0.4, 0.6, 0.6, 0.92)),
    ),
    "gear": (("polygon", _gear()), ("hole", (0.5, 0.5, 0.15))),
    "magnifier": (
        ("line", (*_half_disc(0.4, 0.4, 0.28), *_half_disc(0.4, 0.4, -0.28))),
        ("line", (0.62, 0.62, 0.9, 0.9)),
    ),
    "heart": (("polygon", _heart()),),
    "star": (("polygon", _star()),),
    "envelope": (("box", (0.05, 0.2, 0.95, 0.8)), ("score", (0.07, 0.24, 0.5, 0.58, 0.93, 0.24))),
    "bell": (
        ("polygon", (*_half_disc(0.5, 0.38, 0.27), 0.23, 0.62, 0.1, 0.76, 0.9, 0.76, 0.77, 0.62)),
        ("disc", (0.5, 0.84, 0.11)),
    ),
    "bin": (
        ("polygon", (0.18, 0.32, 0.82, 0.32, 0.75, 0.95, 0.25, 0.95)),
        ("line", (0.1, 0.2, 0.9, 0.2)),
        ("line", (0.38, 0.08, 0.62, 0.08)),
        ("score", (0.4, 0.44, 0.42, 0.84)),
        ("score", (0.6, 0.44, 0.58, 0.84)),
    ),
    "plus": (("line", (0.5, 0.12, 0.5, 0.88)), ("line", (0.12, 0.5, 0.88, 0.5))),
    "minus": (("line", (0.12, 0.5, 0.88, 0.5)),),
    "cross": (("line", (0.18, 0.18, 0.82, 0.82)), ("line", (0.82, 0.18, 0.18, 0.82))),
    "check": (("line", (0.1, 0.55, 0.38, 0.82, 0.9, 0.2)),),
    "play": (("polygon", (0.2, 0.08, 0.92, 0.5, 0.2, 0.92)),),
    "pause": (("box", (0.16, 0.1, 0.42, 0.9)), ("box", (0.58, 0.1, 0.84, 0.9))),
    "person": (
        ("disc", (0.5, 0.27, 0.2)),
        ("polygon", _half_disc(0.5, 0.94, 0.4)),
    ),
    "cart": (
        ("line", (0.04, 0.12, 0.2, 0.12, 0.34, 0.66, 0.84, 0.66)),
        ("polygon", (0.24, 0.24, 0.96, 0.24, 0.84, 0.56, 0.32, 0.56)),
        ("disc", (0.4, 0.86, 0.1)),
        ("disc", (0.76, 0.86, 0.1)),
    ),
    "lock": (
        ("box", (0.16, 0.44, 0.84, 0.94)),
        ("line", (0.7, 0.44, *_half_disc(0.5, 0.3, 0.2), 0.3, 0.44)),
        ("hole", (0.5, 0.68, 0.08)),
    ),
    "camera": (
        ("polygon", (0.04, 0.28, 0.3, 0.28, 0.38, 0.14, 0.62, 0.14, 0.7, 0.28, 0.96, 0.28, 0.96,
                     0.86, 0.04, 0.86)),
        ("hole", (0.5, 0.56, 0.18)),
    ),
    "clock": (("disc", (0.5, 0.5, 0.46)), ("score", (0.5, 0.22, 0.5, 0.52, 0.7, 0.64))),
    "flag": (
        ("line", (0.18, 0.06, 0.18, 0.96)),
        ("polygon", (0.22, 0.08, 0.92, 0.08, 0.74, 0.31, 0.92, 0.54, 0.22, 0.54)),
    ),
    "pencil": (
        ("polygon", (0.72, 0.05, 0.95, 0.28, 0.35, 0.88, 0.06, 0.94, 0.12, 0.65)),
        ("score", (0.56, 0.2, 0.8, 0.44)),
    ),
    "cloud": (
        ("disc", (0.26, 0.6, 0.22)),
        ("disc", (0.5, 0.44, 0.28)),
        ("disc", (0.76, 0.6, 0.2)),
        ("box", (0.26, 0.55, 0.76, 0.82)),
    ),
    "sun": (("disc", (0.5, 0.5, 0.22)), *_rays()),
    "moon": (("disc", (0.46, 0.52, 0.42)), ("bite", (0.68, 0.36, 0.36))),
    "arrow right": _arrow(0),
    "arrow down": _arrow(1),
    "arrow left": _arrow(2),
    "arrow up": _arrow(3),
}  # fmt: skip

ICON_NAMES: tuple[str, ...] = tuple(_PIECES)
"""Icons that can be drawn, all of them labels."""

_SIDE = 96


@lru_cache(maxsize=256)
def _draw_large(name: str, style: IconStyle) -> Image.Image:
    body, spared, strokes = (Image.new("L", (_SIDE, _SIDE)) for _ in range(3))
    width = round(style.stroke * _SIDE)
    for kind, shares in _PIECES[name]:
        numbers = [share * _SIDE for share in shares]
        if kind in ("disc", "hole", "bite"):
            x, y, radius = numbers
            numbers = [x - radius, y - radius, x + radius, y + radius]
        if kind == "line" or kind == "score":
            target = strokes if kind == "line" else spared
            _draw_line(ImageDraw.Draw(target), numbers, width)
        elif kind == "polygon":
            ImageDraw.Draw(body).polygon(numbers, fill=255)
        elif kind in ("disc", "bite"):
            ImageDraw.Draw(body).ellipse(numbers, fill=255 if kind == "disc" else 0)
        elif kind == "box":
            ImageDraw.Draw(body).rectangle(numbers, fill=255)
        else:
            draw = ImageDraw.Draw(spared)
            shape = draw.ellipse if kind == "hole" else draw.rectangle
            if style.fill == 1:
                shape(numbers, fill=255)
            else:
                shape(numbers, outline=255, width=width * 2 // 3)
    if style.fill == 1:
        return ImageChops.lighter(ImageChops.subtract(body, spared), strokes)
    rim = ImageChops.subtract(body, body.filter(ImageFilter.MinFilter(width * 3 // 4 * 2 + 1)))
    wash = body.point([round(style.fill * level) for level in range(256)])
    lines = ImageChops.lighter(ImageChops.lighter(rim, spared), strokes)
    return ImageChops.lighter(lines, wash)


def _draw_line(draw: ImageDraw.ImageDraw, numbers: list[float], width: int) -> None:
    draw.line(numbers, fill=255, width=width, joint="curve")
    for x, y in zip(numbers[::2], numbers[1::2], strict=True):  # round ends
        radius = width / 2
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)


@lru_cache(maxsize=4096)
def icon_mask(name: str, style: IconStyle, size: int) -> Image.Image:
    """Ink of an icon.

    Args:
        name: one of ``ICON_NAMES``.
        style: one of ``ICON_STYLES``.
        size: side in pixels, at least 8.

    Returns:
        ``L`` picture of that side, 0 to 255.
    """
    return _draw_large(name, style).resize((size, size), Image.Resampling.BOX)


def draw_icon(
    image: Image.Image, name: str, style: IconStyle, size: int, corner: tuple[int, int], ink: Colour
) -> tuple[Mark, Mark]:
    """Draw an icon into a picture.

    Args:
        image: RGB picture that is drawn into.
        name: one of ``ICON_NAMES``.
        style: one of ``ICON_STYLES``.
        size: side in pixels.
        corner: left and top.
        ink: colour.

    Returns:
        Marks for an icon and for what it shows, around its square.
    """
    left, top = corner
    image.paste(ink, corner, icon_mask(name, style, size))
    box: Box = (left, top, left + size, top + size)
    return Mark("part:icon", box), Mark(f"icon:{name}", box)
