"""Colours of drawn pictures: named ones and their shades, grounds, what can be read on a colour.

Where colours are put is left to the families. No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import Chance

Colour = tuple[int, int, int]
"""Red, green and blue, each 0 to 255."""

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


def brightness(colour: Colour) -> float:
    """How bright a colour looks, 0 to 255."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def ink_on(colour: Colour) -> Colour:
    """Black or white, whichever can be read on a colour."""
    return (0, 0, 0) if brightness(colour) > 120 else (255, 255, 255)
