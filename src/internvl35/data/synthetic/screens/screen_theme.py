"""Looks that the elements of one drawn screen share: light or dark, colours, corners, icons.

Drawing the elements is left to :mod:`internvl35.data.synthetic.screens.widgets`. No counterpart in
the paper.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

from internvl35.data.synthetic.colours import Colour, brightness
from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.screens.icons import ICON_STYLES, IconStyle

_WHITE: Colour = (255, 255, 255)


@dataclass(frozen=True)
class Theme:
    """Looks of one screen."""

    ground: Colour
    """Behind everything."""
    ink: Colour
    """Print on the ground."""
    soft: Colour
    """Print that only hints, and lines."""
    paper: Colour
    """Inside of fields and boxes."""
    accent: Colour
    """What is on, and what asks to be clicked."""
    link: Colour
    """Print of links."""
    bar: Colour
    """Behind titles and tools."""
    round_share: float
    """Radius of corners as a share of the height, 0 to 0.5."""
    is_filled: bool
    """Whether buttons are filled with the accent, not framed."""
    icon_style: IconStyle
    """How icons are drawn."""
    plate: str
    """What icons stand on: nothing, a ``disc`` or a ``square``."""


def legible_on(ground: Colour) -> Colour:
    """Black or white, whichever can be read on a colour."""
    return (16, 16, 18) if brightness(ground) > 135 else (250, 250, 250)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """A colour between two: a share of 0 gives the one, 1 the other."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def _from_hsv(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue


def choose_theme(chance: Chance) -> Theme:
    """Choose the looks of a screen; an easy one is black on white with a blue accent."""
    rng = chance.rng
    if not chance.is_hard():
        blue = (30, 90, 210)
        return Theme(
            _WHITE, (0, 0, 0), (110, 110, 110), _WHITE, blue, blue, (226, 230, 238), 0.0, True,
            ICON_STYLES.seen[0], "",
        )  # fmt: skip
    hue = rng.random()
    is_dark = rng.random() < 0.4
    tint = rng.uniform(0, 0.3 if is_dark else 0.12)
    ground = _from_hsv(hue, tint, rng.uniform(0.08, 0.24) if is_dark else rng.uniform(0.88, 1.0))
    ink = mix(legible_on(ground), ground, rng.uniform(0, 0.15))
    accent_hue = rng.random()
    while True:
        accent = _from_hsv(accent_hue, rng.uniform(0.35, 0.95), rng.uniform(0.4, 0.95))
        if abs(brightness(accent) - brightness(ground)) > 50:
            break
    paper = mix(ground, _WHITE, rng.uniform(0.05, 0.15) if is_dark else rng.uniform(0.5, 1.0))
    bar = accent if rng.random() < 0.3 else mix(ground, ink, rng.uniform(0.06, 0.2))
    return Theme(
        ground=ground,
        ink=ink,
        soft=mix(ink, ground, rng.uniform(0.3, 0.42)),
        paper=paper,
        accent=accent,
        link=_from_hsv(rng.uniform(0.52, 0.72), 0.45, 1.0) if is_dark else (20, 60, 200),
        bar=bar,
        round_share=rng.choice((0.0, 0.0, 0.15, 0.25, 0.5)),
        is_filled=rng.random() < 0.6,
        icon_style=chance.pick(ICON_STYLES),
        plate=rng.choice(("", "", "", "disc", "square")),
    )
