"""Writing a picture as SVG code: one to three plain shapes, compared by what the code renders to.

The code itself is left to :mod:`internvl35.data.synthetic.code.svg_code`. The announcement of the
models names SVG among their skills; these small pictures have no counterpart in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.code.svg_code import (
    SVG_COLOURS,
    SVG_SHAPES,
    SVG_SIDE,
    CleanSvg,
    SvgShape,
    clean_svg,
    colour_masks,
    extract_svg,
    render_svg,
    write_shape,
    write_svg,
)
from internvl35.data.synthetic.colours import vary_colour
from internvl35.data.synthetic.drawing import Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import SHAPES, Mark
from internvl35.errors import DataError

PICTURE_WORDINGS = wordings(
    "Write this picture as SVG code.",
    "Write SVG code for this image.",
    "Convert the picture to SVG.",
    "Please convert this image into SVG code.",
    "Generate the SVG code of this picture.",
    "Draw this image as SVG.",
    "What is the SVG code of this picture?",
    "Give me SVG code that draws this image.",
    "Turn this image into an SVG.",
    "Reproduce the picture in SVG code.",
    "Vectorise this picture as SVG.",
    "Vectorize this image and output the SVG code.",
    "Recreate this image with SVG code only.",
    "Which SVG code renders to this picture?",
    'Write the image as SVG with the viewBox "0 0 100 100".',
    "Answer with the SVG code that reproduces this image.",
)
"""Ways to ask for the whole picture."""

ELEMENT_WORDINGS = wordings(
    "Write only the {name} as an SVG element.",
    "Give the SVG element of the {name}.",
    "Which SVG element draws the {name}?",
    "Write the SVG element for the {name}.",
    "What is the SVG element of the {name}?",
    "Convert just the {name} to an SVG element.",
    "Draw the {name} as one SVG element.",
    "Please write the {name} as a single SVG element.",
    "Turn the {name} into an SVG element.",
    "Output the SVG element that draws the {name}.",
    "As an SVG element, what is the {name}?",
    "Generate one SVG element for the {name}.",
)
"""Ways to ask for one shape; ``{name}`` is "red shape" or the like."""

RENDER_SIDE = 200
"""Pixels a side in which answers are compared."""
MIN_IOU = 0.5
"""Overlap with the expected shape that a right one has at least."""
MIN_FORM = 0.85
"""Overlap after both are pressed into one box: a circle and a square share 0.79 of it."""
MAX_STRETCH = 1.3
"""How far the ratio of width to height may be off, as a factor."""

_GAP = 5
_MARGIN = 5
_SIDES = {1: (30, 70), 2: (30, 50), 3: (25, 40)}
_BACKGROUND_SHARE = 0.25
_WHOLE_FIRST_SHARE = 0.65
_NOISE_PIXELS = RENDER_SIDE**2 // 1000
_EVEN = frozenset({"circle", "triangle", "ellipse", "diamond"})
_SCALE = 2


def choose_shapes(
    rng: random.Random,
    num: int,
    *,
    sides: tuple[int, int],
    kinds: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
) -> list[SvgShape]:
    """Choose shapes that do not touch, from left to right.

    Args:
        rng: source of chance.
        num: how many.
        sides: shortest and longest side of a box, units of the canvas.
        kinds: names of the shapes; None chooses any.
        colours: of the shapes; None chooses different ones.

    Returns:
        Shapes whose middles all lie in different columns, so that their order is clear.
    """
    colours = colours or rng.sample(SVG_COLOURS, num)
    shapes: list[SvgShape] = []
    tries = 0
    while len(shapes) < num:
        tries += 1
        if tries % 60 == 0:
            shapes.clear()
        place = len(shapes)
        kind = kinds[place] if kinds else rng.choice(SVG_SHAPES)
        found = _choose_shape(rng, kind, colours[place], sides)
        if all(_is_apart(found, other) for other in shapes):
            shapes.append(found)
    return sorted(shapes, key=lambda shape: shape.centre)


def _choose_shape(rng: random.Random, shape: str, colour: str, sides: tuple[int, int]) -> SvgShape:
    step = 10 if shape in _EVEN else 5
    lengths = [side for side in range(sides[0], sides[1] + 1, 5) if side % step == 0]
    width = height = rng.choice(lengths)
    if shape in ("rectangle", "ellipse"):
        wide = [(w, h) for w in lengths for h in range(20, w, step) if 2 * w >= 3 * h]
        width, height = rng.choice(wide)
        if rng.random() < 0.5:
            width, height = height, width
    last_left, last_top = SVG_SIDE - _MARGIN - width, SVG_SIDE - _MARGIN - height
    left, top = rng.randrange(_MARGIN, last_left + 1, 5), rng.randrange(_MARGIN, last_top + 1, 5)
    return SvgShape(shape, colour, left, top, width, height)


def _is_apart(one: SvgShape, other: SvgShape) -> bool:
    return abs(one.centre[0] - other.centre[0]) >= 10 and (
        one.left >= other.left + other.width + _GAP
        or other.left >= one.left + one.width + _GAP
        or one.top >= other.top + other.height + _GAP
        or other.top >= one.top + one.height + _GAP
    )


def _paint(
    chance: Chance, shapes: list[SvgShape], background: str | None
) -> tuple[Image.Image, tuple[Mark, ...]]:
    rng = chance.rng
    side = rng.randint(150, 260) if chance.is_hard() else TILE_SIZE
    white = rng.randint(246, 255) if chance.is_hard() else 255
    ground = (white,) * 3 if background is None else vary_colour(chance, background)
    image = Image.new("RGB", (side * _SCALE,) * 2, ground)
    pen = ImageDraw.Draw(image)
    unit = side * _SCALE / SVG_SIDE
    marks = []
    for shape in shapes:
        fill = vary_colour(chance, shape.colour)
        edges = (shape.left, shape.top, shape.left + shape.width, shape.top + shape.height)
        left, top, right, bottom = (edge * unit for edge in edges)
        if shape.corners:
            # Right and bottom pixels of a polygon are filled too, so its edges move in by one.
            pen.polygon(
                [
                    (x * unit - (x > shape.centre[0]), y * unit - (y > shape.centre[1]))
                    for x, y in shape.corners
                ],
                fill=fill,
            )
        else:
            pen.ellipse((left, top, right - 1, bottom - 1), fill=fill)
        box = (left / _SCALE, top / _SCALE, right / _SCALE, bottom / _SCALE)
        marks.append(Mark(f"colour:{shape.colour}", box))
        if shape.shape in SHAPES:
            marks.append(Mark(f"shape:{shape.shape}", box))
    return image.reduce(_SCALE), tuple(marks)


class SvgDrawing:
    """One to three shapes on a plain ground; the answer is SVG code that draws them."""

    name = "svg"

    def draw(self, chance: Chance) -> Drawing:
        """Draw the shapes; a higher level has more and smaller ones, and coloured grounds."""
        rng = chance.rng
        num = rng.choice((1, 1, 2, 2, 3)) if chance.is_hard() else 1
        sides = _SIDES[num] if num > 1 or chance.is_hard() else (40, 70)
        kinds = rng.choices(SVG_SHAPES, k=num)
        while kinds.count("diamond") > 1:  # the longest to write
            kinds = rng.choices(SVG_SHAPES, k=num)
        shapes = choose_shapes(rng, num, sides=sides, kinds=kinds)
        background = None
        if num < 3 and chance.is_hard() and rng.random() < _BACKGROUND_SHARE:
            used = {shape.colour for shape in shapes}
            background = rng.choice([colour for colour in SVG_COLOURS if colour not in used])
        whole = chance.turn(PICTURE_WORDINGS, write_svg(shapes, background), f"draw {num}")
        turns = []
        for shape in rng.sample(shapes, min(num, 2)):
            known = f"{shape.colour} {rng.choice(('shape', 'object', shape.shape))}"
            turns.append(
                chance.turn(ELEMENT_WORDINGS, write_shape(shape), "element", parts={"name": known})
            )
        # First where it counts: a long answer after others may be left out of a conversation.
        turns.insert(0 if rng.random() < _WHOLE_FIRST_SHARE else rng.randint(1, len(turns)), whole)
        image, marks = _paint(chance, shapes, background)
        return Drawing(self.name, (image,), tuple(turns), (marks,), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Render the answer and compare it colour by colour with the expected picture.

        Args:
            turn: what was asked.
            answer: code, in a fence or between other words or alone.

        Returns:
            ``valid`` if it is plain SVG that renders; ``iou``, the mean overlap of the colours;
            ``right`` if it has the same colours, each in about the same place and the same form.

        Raises:
            DataError: if no renderer is installed.
        """
        masks = _rendered(answer)
        if masks is None:
            return {"right": 0.0, "valid": 0.0, "iou": 0.0}
        expected = _rendered(turn.answer)
        assert expected is not None, turn.answer
        colours = expected.keys() | masks.keys()
        ious = [_overlap(expected.get(colour), masks.get(colour)) for colour in sorted(colours)]
        is_right = expected.keys() == masks.keys() and all(
            overlap >= MIN_IOU and _has_form(expected[colour], masks[colour])
            for colour, overlap in zip(sorted(colours), ious, strict=True)
        )
        mean = sum(ious) / len(ious) if ious else 0.0
        return {"right": float(is_right), "valid": 1.0, "iou": mean}


def _rendered(answer: str) -> dict[str, NDArray[np.bool_]] | None:
    """Where which colour is, white left out; None if the answer does not render."""
    code = extract_svg(answer)
    if code.startswith("<") and not code.startswith("<svg"):
        code = f'<svg viewBox="0 0 {SVG_SIDE} {SVG_SIDE}">{code}</svg>'
    try:
        clean = clean_svg(code)
    except DataError:
        return None
    return _render_masks(clean)


@lru_cache(maxsize=64)
def _render_masks(clean: CleanSvg) -> dict[str, NDArray[np.bool_]] | None:
    try:
        image = render_svg(clean, RENDER_SIDE)
    except ValueError:
        return None
    return {
        colour: mask
        for colour, mask in colour_masks(image).items()
        if colour != "white" and mask.sum() > _NOISE_PIXELS
    }


def _overlap(one: NDArray[np.bool_] | None, other: NDArray[np.bool_] | None) -> float:
    if one is None or other is None:
        return 0.0
    return float((one & other).sum() / max(1, (one | other).sum()))


def _has_form(expected: NDArray[np.bool_], found: NDArray[np.bool_]) -> bool:
    """Whether two spots of colour have one form, wherever they are and whatever their size."""
    if min(_sides(expected)) >= RENDER_SIDE - 1:  # the ground, seen around the shapes
        return min(_sides(found)) >= RENDER_SIDE - 1
    width, height = _sides(expected)
    other_width, other_height = _sides(found)
    stretch = width * other_height / (height * other_width)
    if not 1 / MAX_STRETCH <= stretch <= MAX_STRETCH:
        return False
    return _overlap(_press(expected), _press(found)) >= MIN_FORM


def _sides(mask: NDArray[np.bool_]) -> tuple[int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)


def _press(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Cut a spot out and stretch it to 64 x 64."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    steps = (np.arange(64) + 0.5) / 64
    down = (rows[0] + steps * (rows[-1] - rows[0] + 1)).astype(int)
    across = (columns[0] + steps * (columns[-1] - columns[0] + 1)).astype(int)
    return np.asarray(mask[down[:, None], across[None, :]], dtype=np.bool_)
