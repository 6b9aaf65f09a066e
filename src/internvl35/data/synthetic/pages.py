"""Pages full of print, without questions, that warm up a vision tower.

Their marks say which character stands where. No counterpart in the paper.
"""

from __future__ import annotations

import random

from PIL import Image

from internvl35.data.synthetic.drawing import Chance, Drawing
from internvl35.data.synthetic.fonts import choose_font, print_line, size_for_caps, text_width
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.scene import TILE_SIZE
from internvl35.data.synthetic.typesetting import choose_inks
from internvl35.data.synthetic.words import choose_code, choose_number, choose_word

WORD_SHARE = 0.4
"""How many pages are sparse and made of words, as later pictures are."""

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
        A drawing of the size of a tile whose family is ``"page"``, without questions.
    """
    rng = chance.rng
    has_words = rng.random() < WORD_SHARE
    font = choose_font(chance, "$" if has_words else "")
    cap_height = rng.uniform(8, 30) if chance.is_hard() else rng.uniform(13, 20)
    size = size_for_caps(font, cap_height)
    ink, paper = choose_inks(chance)
    image = Image.new("RGB", (TILE_SIZE, TILE_SIZE), paper)
    marks: list[Mark] = []
    base = round(1.1 * cap_height) + rng.randint(3, 9)  # small l and f rise above capitals
    while base + 0.4 * cap_height < TILE_SIZE:  # room for the longest tail, that of a Q or a g
        left = rng.randint(2, 8)
        if has_words:
            left += rng.randint(0, TILE_SIZE // 4)
        room = TILE_SIZE - left - 6
        line = (
            _fill_with_words(chance, font, size, room)
            if has_words
            else _fill(rng, font, size, room)
        )
        marks += print_line(image, line, font, size, (left, base), ink)
        base += round((1.3 if not has_words else rng.uniform(1.4, 2.4)) * cap_height)
        base += rng.randint(3, 9)
    return Drawing("page", (image,), (), (tuple(marks),), unseen=chance.unseen)


def _fill(rng: random.Random, font: str, size: int, room: int) -> str:
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
