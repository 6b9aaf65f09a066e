"""Many drawings on one picture, for documents and for people who check what is drawn.

Drawing them is left to the families.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.drawing import Drawing

_GROUND, _INK = (200, 200, 205), (20, 20, 20)


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a text as one line has room for."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def contact_sheet(
    drawings: Sequence[Drawing],
    *,
    columns: int = 6,
    cell: int = 168,
    is_thumbnail: bool = False,
    with_boxes: bool = False,
) -> Image.Image:
    """Lay drawings out in rows, each over its first question and answer.

    Args:
        drawings: at least one.
        columns: drawings a row.
        cell: side in pixels of the square a picture is fitted into; it is never enlarged.
        is_thumbnail: show each picture as the model's thumbnail has it, pressed into one tile.
        with_boxes: draw a frame around every mark.

    Returns:
        RGB picture.
    """
    font = ImageFont.load_default(11)
    line, gap = 14, 6
    rows = -(-len(drawings) // columns)
    step_x, step_y = cell + gap, cell + 2 * line + gap
    sheet = Image.new("RGB", (columns * step_x + gap, rows * step_y + gap), _GROUND)
    pen = ImageDraw.Draw(sheet)
    for place, drawing in enumerate(drawings):
        left, top = gap + place % columns * step_x, gap + place // columns * step_y
        if drawing.images:
            image = _side_by_side(drawing, is_thumbnail=is_thumbnail, with_boxes=with_boxes)
            image.thumbnail((cell, cell))
            sheet.paste(image, (left, top))
        if drawing.turns:
            turn = drawing.turns[0]
            pen.text((left, top + cell), _shorten(turn.question, cell, font), _INK, font)
            pen.text((left, top + cell + line), _shorten(turn.answer, cell, font), _INK, font)
    return sheet


def _side_by_side(drawing: Drawing, *, is_thumbnail: bool, with_boxes: bool) -> Image.Image:
    images = [image.copy() for image in drawing.images]
    if with_boxes:
        for image, marks in zip(images, drawing.marks, strict=False):
            frames = ImageDraw.Draw(image)
            for mark in marks:
                x0, y0, x1, y1 = mark.box
                frames.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(255, 0, 255))
    if is_thumbnail:
        images = [
            image.resize((TILE_SIZE, TILE_SIZE), Image.Resampling.BICUBIC) for image in images
        ]
    gap = 4
    width = sum(image.width + gap for image in images) - gap
    row = Image.new("RGB", (width, max(image.height for image in images)), _GROUND)
    left = 0
    for image in images:
        row.paste(image, (left, 0))
        left += image.width + gap
    return row
