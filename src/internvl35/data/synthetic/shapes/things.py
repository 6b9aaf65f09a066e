"""Coloured shapes: how they are drawn, marked, named and measured.

Sizes and places of pictures are left to :mod:`internvl35.data.synthetic.canvas`, shades to
:mod:`internvl35.data.synthetic.colours`. No counterpart in the paper.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import Canvas
from internvl35.data.synthetic.colours import Colour, colours_on, vary_colour
from internvl35.data.synthetic.drawing import Box, Chance
from internvl35.data.synthetic.labels import SHAPES, Mark

OUTLINED_SHARE = 0.25
"""How many hard pictures show outlines, as far as their shapes are large enough."""

LEAST_OUTLINE = 32
"""Least side in pixels of a shape that is drawn as an outline; inside a smaller one is no room."""


@dataclass(frozen=True)
class Thing:
    """A coloured shape at a place."""

    colour: str
    """Key of ``COLOURS``."""
    shape: str
    """One of ``SHAPES``."""
    box: Box
    """Square that the shape is drawn in."""
    is_filled: bool = True
    """Whether its inside has the colour too, not the outline alone."""

    @property
    def name(self) -> str:
        """Colour and shape."""
        return f"{self.colour} {self.shape}"

    @property
    def side(self) -> float:
        """Side of the square it is drawn in."""
        return self.box[2] - self.box[0]

    @property
    def middle(self) -> tuple[float, float]:
        """Middle of the square it is drawn in."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


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
    "rectangle": ((-1.0, -0.5), (1.0, -0.5), (1.0, 0.5), (-1.0, 0.5)),
    "cross": _CROSS,
    "heart": _HEART,
}
_EXTENTS = {
    shape: (
        min(x for x, _ in points),
        min(y for _, y in points),
        max(x for x, _ in points),
        max(y for _, y in points),
    )
    for shape, points in _OUTLINES.items()
}
_SCALE = 2
_STROKE = 0.1  # of the side
_LEAST_STROKE = 3.0


def _shoelace(points: Sequence[tuple[float, float]]) -> float:
    turned = (*points[1:], points[0])
    return 0.5 * abs(sum(a * d - b * c for (a, b), (c, d) in zip(points, turned, strict=True)))


_AREAS = {"circle": math.pi, **{shape: _shoelace(points) for shape, points in _OUTLINES.items()}}


def is_larger(one: Thing, two: Thing, ratio: float) -> bool:
    """Whether anyone would call a thing the larger of two.

    Args:
        one: supposed to be the larger.
        two: supposed to be the smaller.
        ratio: how many times as wide it must be; its area is larger then, too.
    """
    areas = [_AREAS[thing.shape] * thing.side**2 for thing in (one, two)]
    return one.side >= ratio * two.side and areas[0] >= ratio * areas[1]


def choose_filling(chance: Chance, boxes: Sequence[Box], shrink: float) -> bool:
    """Whether shapes are filled, as most are; see ``Thing.is_filled``.

    Args:
        chance: an easy drawing has filled shapes.
        boxes: squares of the shapes; small ones are filled.
        shrink: pixels of the picture that one pixel of a thumbnail covers.
    """
    if not chance.is_hard() or chance.rng.random() > OUTLINED_SHARE:
        return True
    return min(right - left for left, _, right, _ in boxes) < LEAST_OUTLINE * max(1.0, shrink)


def refer(rng: random.Random, thing: Thing, things: Sequence[Thing]) -> str:
    """Name a thing so that it is told from the others: by colour, by shape, or by both.

    Args:
        rng: source of chance.
        thing: what is meant.
        things: all that it could be confused with, none of the same colour and shape.
    """
    names = [thing.name, thing.name]
    if sum(other.shape == thing.shape for other in things) == 1:
        names.append(thing.shape)
    if sum(other.colour == thing.colour for other in things) == 1:
        names.append(f"{thing.colour} {rng.choice(('object', 'thing', 'shape'))}")
    return rng.choice(names)


def choose_pairs(rng: random.Random, colours: Sequence[str], num: int) -> list[tuple[str, str]]:
    """Choose colours and shapes for things of which no two agree in both.

    Args:
        rng: source of chance.
        colours: names to choose from.
        num: things.

    Returns:
        Colour and shape of each; in one of three pictures some share a colour or a shape.
    """
    if rng.random() < 2 / 3:
        return list(zip(rng.sample(colours, num), rng.sample(SHAPES, num), strict=True))
    some, others = rng.sample(colours, max(2, num - 1)), rng.sample(SHAPES, max(2, num - 1))
    return rng.sample([(colour, shape) for colour in some for shape in others], num)


def draw_things(
    chance: Chance, canvas: Canvas, things: Sequence[Thing], background: Colour
) -> Image.Image:
    """Draw coloured shapes, each in a shade of its own; an easy drawing has plain colours.

    Args:
        chance: of the shades.
        canvas: size of the picture.
        things: what to draw where; their boxes, in whole pixels, do not overlap.
        background: fills the rest.

    Returns:
        RGB picture of the canvas' size, edges smoothed.
    """
    shades = [vary_colour(chance, thing.colour) for thing in things]
    return _paint(canvas, things, background, shades)


def draw_scenes(
    chance: Chance, canvas: Canvas, scenes: Iterable[Sequence[Thing]], background: Colour
) -> tuple[tuple[Image.Image, ...], tuple[tuple[Mark, ...], ...]]:
    """Draw several scenes in the same shades, so that what stays the same agrees in every pixel.

    Args:
        chance: of the shades.
        canvas: size of each picture.
        scenes: what to draw where; boxes of a scene, in whole pixels, do not overlap.
        background: fills the rest.

    Returns:
        RGB pictures of the canvas' size, edges smoothed, and the marks of each.
    """
    shades = {name: vary_colour(chance, name) for name in colours_on(background)}
    images, marks = [], []
    for things in scenes:
        own = [shades[thing.colour] for thing in things]
        images.append(_paint(canvas, things, background, own))
        marks.append(mark_things(things))
    return tuple(images), tuple(marks)


def _paint(
    canvas: Canvas, things: Sequence[Thing], background: Colour, shades: Sequence[Colour]
) -> Image.Image:
    image = Image.new("RGB", (canvas.width, canvas.height), background)
    for thing, shade in zip(things, shades, strict=True):
        place = round(thing.box[0]), round(thing.box[1])
        image.paste(_stamp(thing, shade, background), place)
    return image


def _stamp(thing: Thing, shade: Colour, background: Colour) -> Image.Image:
    side = _SCALE * round(thing.side)
    image = Image.new("RGB", (side, side), background)
    pen = ImageDraw.Draw(image)
    stroke = 0 if thing.is_filled else round(_SCALE * _stroke(thing.side))
    middle, radius = (side - 1) / 2, (side - 1 - stroke) / 2
    if thing.shape == "circle":
        box = (0, 0, side - 1, side - 1)
        if thing.is_filled:
            pen.ellipse(box, fill=shade)
        else:
            pen.ellipse(box, outline=shade, width=stroke)
        return image.reduce(_SCALE)
    points = [(middle + x * radius, middle + y * radius) for x, y in _OUTLINES[thing.shape]]
    if thing.is_filled:
        pen.polygon(points, fill=shade)
    else:
        # The line goes on past its first corner, or that corner would not be round.
        pen.line([*points, *points[:2]], fill=shade, width=stroke, joint="curve")
    return image.reduce(_SCALE)


def _stroke(side: float) -> float:
    return max(_LEAST_STROKE, _STROKE * side)


def _ink_box(thing: Thing) -> Box:
    """Whole pixels that a shape fills, in part or in full."""
    left, top, right, bottom = thing.box
    if thing.shape == "circle":
        return thing.box
    least_x, least_y, most_x, most_y = _EXTENTS[thing.shape]
    x, y = thing.middle
    half = 0.0 if thing.is_filled else _stroke(thing.side) / 2
    radius = (right - left) / 2 - half
    spare = half + 0.25  # corners are rounded to half pixels
    return (
        max(left, math.floor(x + least_x * radius - spare)),
        max(top, math.floor(y + least_y * radius - spare)),
        min(right, math.ceil(x + most_x * radius + spare)),
        min(bottom, math.ceil(y + most_y * radius + spare)),
    )


def mark_things(things: Sequence[Thing]) -> tuple[Mark, ...]:
    """Two marks a thing, its colour and its shape, around the pixels it fills."""
    return tuple(
        Mark(label, _ink_box(thing))
        for thing in things
        for label in (f"colour:{thing.colour}", f"shape:{thing.shape}")
    )
