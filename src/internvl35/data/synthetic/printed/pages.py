"""Pages full of print that warm up a vision tower, and teach a language model to spell.

Their marks say which character stands where; their lines can be asked for. For training alone. No
counterpart in the paper.
"""

from __future__ import annotations

from PIL import Image

from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.drawing import Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import (
    choose_font,
    print_line,
    size_for_caps,
    text_width,
)
from internvl35.data.synthetic.printed.typesetting import choose_inks, ink_box
from internvl35.data.synthetic.printed.words import choose_code, choose_number, choose_word

WORD_SHARE = 0.4
"""How many pages are sparse and made of words, as later pictures are."""

WORDINGS = wordings(
    "Read line {number}.",
    "What does line {number} say?",
    "Write down line {number} of the page.",
    "Spell line {number}.",
    "Line {number}, please.",
    "What stands in line {number}?",
    "Copy line {number}.",
    "Give me line {number} of the text.",
)
"""Ways to ask for a line of a page."""

MAX_TURNS = 4
"""Most lines that are asked for."""

_GLYPHS = (
    "0123456789" * 3
    + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 2
    + "abcdefghijklmnopqrstuvwxyz" * 2
    + ".,:;!?'()[]+-*/=%&#@"
)


def draw_page(chance: Chance) -> Drawing:
    """Fill one tile with lines of random characters or of words, one mark a character.

    Args:
        chance: an easy page is black on white in one font.

    Returns:
        A drawing of the size of a tile whose family is ``"page"``, with questions about some of
        its lines.
    """
    rng = chance.rng
    has_words = rng.random() < WORD_SHARE
    font = choose_font(chance, "$" if has_words else "")
    cap_height = rng.uniform(8, 30) if chance.is_hard() else rng.uniform(13, 20)
    size = size_for_caps(font, cap_height)
    ink, paper = choose_inks(chance)
    image = Image.new("RGB", (TILE_SIZE, TILE_SIZE), paper)
    marks: list[Mark] = []
    lines: list[str] = []
    base = round(cap_height) + rng.randint(3, 9)
    while True:
        indent = rng.randint(2, 8) + (rng.randint(0, TILE_SIZE // 4) if has_words else 0)
        room = TILE_SIZE - indent - 6
        fill = _fill_with_words if has_words else _fill
        line = fill(chance, font, size, room)
        left, top, _, bottom = ink_box(line, font, size)
        base = max(base, 1 - top)  # brackets, small l and f rise above capitals
        if base + bottom > TILE_SIZE:
            break
        lines.append(" ".join(line.split()))
        marks += print_line(image, line, font, size, (max(indent, 1 - left), base), ink)
        base += round((rng.uniform(1.4, 2.4) if has_words else 1.3) * cap_height)
        base += rng.randint(3, 9)
    return Drawing("page", (image,), _ask(chance, lines), (tuple(marks),), unseen=chance.unseen)


def _ask(chance: Chance, lines: list[str]) -> tuple[Turn, ...]:
    asked = chance.rng.sample(range(len(lines)), min(MAX_TURNS, len(lines)))
    return tuple(
        chance.turn(WORDINGS, lines[place], "page line", parts={"number": place + 1})
        for place in asked
        if lines[place]
    )


def _fill(chance: Chance, font: str, size: int, room: int) -> str:
    rng = chance.rng
    room -= rng.randint(0, 20)
    line = ""
    while True:
        letter = " " if line and rng.random() < 0.12 else rng.choice(_GLYPHS)
        if text_width(line + letter, font, size) > room:
            return line
        line += letter


def _fill_with_words(chance: Chance, font: str, size: int, room: int) -> str:
    rng = chance.rng
    line = ""
    for _ in range(8):
        length = rng.randint(1, 8)
        style = rng.random()
        if style < 0.7:
            word = choose_word(chance, length)
        elif style < 0.9:
            word = choose_number(chance, length)
        else:
            word = choose_code(chance, max(2, length))
        longer = f"{line} {word}".strip()
        if text_width(longer, font, size) <= room:
            line = longer
    return line
