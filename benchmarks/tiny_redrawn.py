"""The same drawings drawn once more by other code: how much of the accuracy stays.

Every picture is drawn anew by matplotlib from its marks alone: shapes as matplotlib's own patches,
every character as an outline of a typeface that training never used, pressed into the place of the
old one; and once more a fifth larger. The same questions are asked about the old and the new
pictures. Families are those whose marks say all that is needed. Writes
``results/tiny_redrawn.json`` and a sheet of both, ``results/tiny_redrawn.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Circle, Patch, PathPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from matplotlib.textpath import TextPath
from matplotlib.transforms import Affine2D
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.record import RESULTS, write_result
from internvl35.chat import Chat, load
from internvl35.config import TINY
from internvl35.conversation import Question
from internvl35.data.synthetic import FAMILIES, Drawing, contact_sheet, draw
from internvl35.data.synthetic.asking import question_text
from internvl35.data.synthetic.drawing import Box
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import font_file
from internvl35.generate.sampling import SamplingSettings
from internvl35.scoring import wilson_interval

REDRAWN = ("counting", "relations", "several", "motion", "reading", "lines", "receipts")
"""Families whose pictures are nothing but marked shapes and characters on a plain ground."""

FONTS = ("font_caladea/Caladea-Regular", "font_hanken_grotesk/HankenGrotesk-Medium")
"""Typefaces that are kept for the test."""

LARGER = 1.2
"""Sides of the larger pictures, as a multiple."""

BATCH, DPI = 16, 100

Pixels = NDArray[np.uint8]
Colour = tuple[float, float, float]


def main() -> None:
    """Ask about old and new pictures and print what stays."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=TINY, help="checkpoint to measure")
    parser.add_argument("--pictures", type=int, default=200, help="pictures a family")
    arguments = parser.parse_args()
    chat = load(arguments.model)
    table = Table("family", "as drawn", "drawn by matplotlib", "and larger", "pictures")
    found: dict[str, dict[str, object]] = {}
    shown: list[Drawing] = []
    for family in REDRAWN:
        drawings = [draw(family, "test", index) for index in range(arguments.pictures)]
        anew = [redraw(drawing, number) for number, drawing in enumerate(drawings)]
        larger = [redraw(drawing, number, LARGER) for number, drawing in enumerate(drawings)]
        kinds = {"as_drawn": drawings, "redrawn": anew, "larger": larger}
        rights = {name: count_right(chat, pictures) for name, pictures in kinds.items()}
        found[family] = {name: describe(num, len(drawings)) for name, num in rights.items()}
        shares = [f"{num / len(drawings):.1%}" for num in rights.values()]
        table.add_row(family, *shares, str(len(drawings)))
        shown += [*drawings[:3], *anew[:3]]
    Console().print(table)
    contact_sheet(shown).save(RESULTS / "tiny_redrawn.png")
    figures = {"model": str(arguments.model), "pictures": arguments.pictures, "families": found}
    Console().print(write_result("tiny_redrawn", figures))


def describe(num_right: int, num_all: int) -> dict[str, float]:
    """Accuracy with its 95 % interval."""
    low, high = wilson_interval(num_right, num_all)
    return {
        "accuracy": round(num_right / num_all, 4), "low": round(low, 4), "high": round(high, 4)
    }  # fmt: skip


def count_right(chat: Chat, drawings: Sequence[Drawing]) -> int:
    """Ask the first question of every drawing, greedily, and count the right answers."""
    num_right = 0
    for start in range(0, len(drawings), BATCH):
        batch = drawings[start : start + BATCH]
        questions = [
            Question(question_text(drawing, drawing.turns[0], is_first=True), drawing.images)
            for drawing in batch
        ]
        replies = chat.ask_batch(questions, SamplingSettings(max_tokens=160))
        for drawing, reply in zip(batch, replies, strict=True):
            scores = FAMILIES[drawing.family].score(drawing.turns[0], reply.text)
            num_right += scores["right"] == 1
    return num_right


def redraw(drawing: Drawing, number: int, scale: float = 1.0) -> Drawing:
    """Draw all pictures of a drawing anew.

    Args:
        drawing: with marks for all that it shows.
        number: chooses the typeface.
        scale: sides of the new pictures, as a multiple.
    """
    font = FONTS[number % len(FONTS)]
    images = tuple(
        redraw_picture(image, marks, font, scale)
        for image, marks in zip(drawing.images, drawing.marks, strict=True)
    )
    return replace(drawing, images=images)


def redraw_picture(
    image: Image.Image, marks: Sequence[Mark], font: str, scale: float = 1.0
) -> Image.Image:
    """Draw one picture anew from its marks; colours are read from the old one.

    Args:
        image: the old picture.
        marks: what it shows.
        font: typeface of all characters.
        scale: sides of the new picture, as a multiple.
    """
    pixels = np.asarray(image.convert("RGB"))
    width, height = image.size
    size = (round(width * scale), round(height * scale))
    figure = Figure(figsize=(size[0] / DPI, size[1] / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), frameon=False)
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
    ground = _colour(pixels[1, 1])
    axes.add_patch(Rectangle((-1, -1), width + 2, height + 2, color=ground))
    properties = FontProperties(fname=str(font_file(font)))
    for mark in marks:
        kind, _, name = mark.label.partition(":")
        if kind == "shape":
            axes.add_patch(_shape(name, mark.box, _fill_colour(pixels, mark.box, ground)))
    for mark in marks:
        if mark.label.startswith("glyph:"):
            ink = _fill_colour(pixels, mark.box, ground)
            axes.add_patch(_glyph(mark.label[-1], mark.box, properties, ink))
    figure.canvas.draw()
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    rendered = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Image.fromarray(rendered[:, :, :3].copy())


def _colour(pixel: NDArray[np.generic]) -> Colour:
    red, green, blue = (float(part) / 255 for part in pixel)
    return (red, green, blue)


def _fill_colour(pixels: Pixels, box: Box, ground: Colour) -> Colour:
    """The colour in a box that is least like the ground: that of what stands there."""
    left, top, right, bottom = (round(edge) for edge in box)
    part = pixels[max(0, top) : max(bottom, top + 1), max(0, left) : max(right, left + 1)]
    flat = part.reshape(-1, 3).astype(np.float64)
    distance = np.abs(flat - 255 * np.array(ground)).sum(axis=1)
    return _colour(flat[int(distance.argmax())])


def _shape(name: str, box: Box, colour: Colour) -> Patch:
    left, top, right, bottom = box
    middle = ((left + right) / 2, (top + bottom) / 2)
    if name == "circle":
        return Circle(middle, (right - left) / 2, color=colour)
    if name in ("square", "rectangle"):
        return Rectangle((left, top), right - left, bottom - top, color=colour)
    if name == "diamond":
        corners = [(middle[0], top), (right, middle[1]), (middle[0], bottom), (left, middle[1])]
        return Polygon(corners, color=colour)
    if name == "triangle":
        return Polygon([(middle[0], top), (right, bottom), (left, bottom)], color=colour)
    outline = {"star": _STAR, "cross": _CROSS, "heart": _heart()}[name]
    return _pressed(outline, box, colour)


def _pressed(outline: Outline, box: Box, colour: Colour) -> PathPatch:
    """An outline, pressed into a box; it is given with y growing downward."""
    extents = outline.get_extents()
    width, height = max(extents.width, 1e-6), max(extents.height, 1e-6)
    left, top, right, bottom = box
    transform = (
        Affine2D()
        .translate(-extents.x0, -extents.y0)
        .scale((right - left) / width, (bottom - top) / height)
        .translate(left, top)
    )
    return PathPatch(outline.transformed(transform), facecolor=colour, edgecolor="none")


def _glyph(letter: str, box: Box, properties: FontProperties, ink: Colour) -> PathPatch:
    outline = TextPath((0, 0), letter, size=100, prop=properties)
    return _pressed(outline.transformed(Affine2D().scale(1, -1)), box, ink)


_STAR = Outline.unit_regular_star(5, 0.4).transformed(Affine2D().rotate_deg(180))
_CROSS = Outline(
    [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1),
     (1, 0)],
    closed=True,
)  # fmt: skip


def _heart() -> Outline:
    half = np.asarray(Outline.arc(180, 360).vertices)  # from left to right over the top
    upper = np.concatenate([np.add(half, (-1, 0)), np.add(half, (1, 0))])
    return Outline(np.concatenate([upper, [[0, 2.4]], upper[:1]]), closed=True)


if __name__ == "__main__":
    main()
