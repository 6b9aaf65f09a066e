"""A sheet of right and wrong answers: pictures, questions, what was expected and what came."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from io import BytesIO
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from internvl35.data.synthetic import Drawing, draw
from internvl35.data.synthetic.printed.fonts import PLAIN_FONT, load_font
from internvl35.evals.drawn import Answered

NUM_RIGHT = 3
"""Right answers a family; more where there are not enough wrong ones, and the other way round."""

NUM_WRONG = 3
"""Wrong answers a family."""

MAX_BYTES = 1_000_000
"""Largest file; a larger sheet is written with fewer colours."""

CELL = 190
"""Width of an answer, and height of its picture, in pixels."""

_LINE, _GAP = 15, 8
_QUESTION_LINES, _ANSWER_LINES = 3, 2
_GROUND, _PAPER, _INK, _GREY = (222, 222, 226), (255, 255, 255), (20, 20, 20), (110, 110, 110)
_RIGHT, _WRONG = (24, 128, 56), (190, 30, 30)
_NUM_LINES = _QUESTION_LINES + 2 * _ANSWER_LINES


def choose_answers(answers: Sequence[Answered]) -> list[Answered]:
    """Choose what a family shows: the first right and the first wrong answers.

    Those in scripts that the sheet's font does not have are passed over.

    Args:
        answers: of one family.

    Returns:
        Right ones, then wrong ones.
    """
    total = NUM_RIGHT + NUM_WRONG
    printable = [entry for entry in answers if entry.answer.isascii()]
    right = list(islice((e for e in printable if e.is_right and _is_asked_in_ascii(e)), total))
    wrong = list(islice((e for e in printable if not e.is_right and _is_asked_in_ascii(e)), total))
    num_wrong = min(len(wrong), max(NUM_WRONG, total - len(right)))
    return right[: total - num_wrong] + wrong[:num_wrong]


def _is_asked_in_ascii(entry: Answered) -> bool:
    turn = draw(entry.family, "test", entry.index).turns[0]
    return (turn.question + turn.answer).isascii()


def answer_sheet(answers: Sequence[Answered]) -> Image.Image:
    """Lay answers out, a row a family.

    Args:
        answers: direct answers to test pictures, at least one; families may be mixed.

    Returns:
        RGB picture. A green bar stands over what is right, a red one over what is wrong.
    """
    rows: dict[str, list[Answered]] = {}
    for entry in answers:
        rows.setdefault(entry.family, []).append(entry)
    step_x, step_y = CELL + _GAP, CELL + _NUM_LINES * _LINE + 2 * _GAP
    title = _LINE + _GAP
    columns = NUM_RIGHT + NUM_WRONG
    size = (columns * step_x + _GAP, len(rows) * (step_y + title) + _GAP)
    sheet = Image.new("RGB", size, _GROUND)
    pen = ImageDraw.Draw(sheet)
    for number, (family, entries) in enumerate(rows.items()):
        top = _GAP + number * (step_y + title)
        right = sum(entry.is_right for entry in entries)
        heading = f"{family}: {right} of {len(entries)} right"
        pen.text((_GAP, top), heading, _INK, load_font("DejaVuSans-Bold", 13))
        for column, entry in enumerate(choose_answers(entries)):
            cell = _draw_cell(entry)
            sheet.paste(cell, (_GAP + column * step_x, top + title))
    return sheet


def _draw_cell(entry: Answered) -> Image.Image:
    drawing = draw(entry.family, "test", entry.index)
    turn = drawing.turns[0]
    colour = _RIGHT if entry.is_right else _WRONG
    cell = Image.new("RGB", (CELL, CELL + _NUM_LINES * _LINE + _GAP), _PAPER)
    pen = ImageDraw.Draw(cell)
    pen.rectangle((0, 0, CELL - 1, 3), fill=colour)
    if drawing.images:
        picture = _join(drawing)
        picture.thumbnail((CELL - 4, CELL - 8))
        cell.paste(picture, ((CELL - picture.width) // 2, 6))
        room, top = _QUESTION_LINES, CELL
    else:
        room, top = (
            CELL // _LINE + _QUESTION_LINES - 1,
            _LINE,
        )  # the question has the picture's room
    font = load_font(PLAIN_FONT, 11)
    _write(pen, top, turn.question, room, _INK, font)
    top = CELL + _QUESTION_LINES * _LINE
    _write(pen, top, f"expected: {turn.answer}", _ANSWER_LINES, _GREY, font)
    top += _ANSWER_LINES * _LINE
    _write(pen, top, f"given: {entry.answer}", _ANSWER_LINES, colour, font)
    return cell


def _write(
    pen: ImageDraw.ImageDraw,
    top: int,
    text: str,
    room: int,
    colour: tuple[int, int, int],
    font: ImageFont.FreeTypeFont,
) -> None:
    """Write a text into as many lines as there is room for."""
    lines = wrap(text[:600], CELL - 6, font)
    if len(lines) > room:
        lines = [*lines[: room - 1], shorten(" ".join(lines[room - 1 :]), CELL - 6, font)]
    for number, line in enumerate(lines):
        pen.text((3, top + number * _LINE), line, colour, font)


def _join(drawing: Drawing) -> Image.Image:
    """Put two pictures side by side, more of them into a square."""
    images, gap = drawing.images, 4
    columns = max(2, math.ceil(math.sqrt(len(images))))
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    num_rows = -(-len(images) // columns)
    across = min(columns, len(images))
    joined = Image.new(
        "RGB", (across * (width + gap) - gap, num_rows * (height + gap) - gap), _GROUND
    )
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        joined.paste(image, (column * (width + gap), row * (height + gap)))
    return joined


def wrap(text: str, width: int, font: ImageFont.FreeTypeFont) -> list[str]:
    """Break a text into lines that are narrow enough.

    Args:
        text: line breaks in it count as blanks.
        width: pixels.
        font: what it is printed in.

    Returns:
        At least one line; a word that is too long for a line is broken.
    """
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont) -> str:
    """Cut a text so that it fits into one line.

    Args:
        text: any text.
        width: pixels.
        font: what it is printed in.

    Returns:
        The text, or its beginning with dots behind.
    """
    text = " ".join(text.split())[:500]
    if font.getlength(text) <= width:
        return text
    room = width - font.getlength("...")
    fitting = bisect_right(range(len(text)), room, key=lambda end: font.getlength(text[: end + 1]))
    return f"{text[:fitting]}..."


def write_sheet(sheet: Image.Image, path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Write a sheet as PNG with as many colours as its size allows.

    Args:
        sheet: of :func:`answer_sheet`.
        path: the file.
        max_bytes: largest file; with 8 colours it may still be exceeded.
    """
    content = b""
    for colours in (256, 128, 64, 32, 16, 8):
        buffer = BytesIO()
        few = sheet.quantize(colours, dither=Image.Dither.NONE)
        few.save(buffer, "PNG", optimize=True)
        content = buffer.getvalue()
        if len(content) <= max_bytes:
            break
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
