"""Reading a printed word or number, and pages of print that warm up a vision tower.

Picture sizes are left to :mod:`internvl35.data.synthetic.scene`. No counterpart in the paper.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from internvl35.data.synthetic.scene import (
    GLYPHS,
    TILE_SIZE,
    Canvas,
    Colour,
    Drawing,
    Mark,
    Turn,
    choose_canvas,
    choose_tile_canvas,
    is_hard,
)
from internvl35.data.synthetic.words import WORDS
from internvl35.scoring import exact_match

FONTS = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic", "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic",
    "STIXGeneralBolIta", "cmr10", "cmb10", "cmss10", "cmtt10", "cmti10",
)  # fmt: skip
"""Font files that matplotlib brings along, so that every machine draws the same."""

WORDINGS = (
    "What does it say?",
    "What does the picture say?",
    "What is written here?",
    "What is written in the picture?",
    "What text is in the image?",
    "Read the text.",
    "Please read the text.",
    "Read this.",
    "What is printed here?",
    "Which text do you see?",
    "Write down the text in the picture.",
    "Tell me what is written here.",
)
"""Ways to ask for any text."""

WORD_WORDINGS = (
    "Read the word.",
    "Which word is printed?",
    "What word is this?",
    "What word do you see?",
    "What is the word in the picture?",
    "Please read the word.",
    "Which word is written here?",
    "Tell me the word.",
)
"""Ways to ask for letters only."""

NUMBER_WORDINGS = (
    "What number is printed?",
    "Read the number.",
    "Which number is this?",
    "What number do you see?",
    "What is the number in the picture?",
    "Please read the number.",
    "Which number is written here?",
    "Tell me the number.",
)
"""Ways to ask for digits only."""

FIRST_WORDINGS = (
    "What is the first character?",
    "Which character comes first?",
    "What does it start with?",
    "Tell me the first character.",
    "Name the first character.",
    "With which character does it begin?",
    "Which is the first character?",
    "Read only the first character.",
)
"""Ways to ask for the first character."""

LAST_WORDINGS = (
    "What is the last character?",
    "Which character comes last?",
    "What does it end with?",
    "Tell me the last character.",
    "Name the last character.",
    "With which character does it end?",
    "Which is the last character?",
    "Read only the last character.",
)
"""Ways to ask for the last character."""

LENGTH_WORDINGS = (
    "How many characters does it have?",
    "How many characters are printed?",
    "How long is the text?",
    "Count the characters.",
    "How many characters long is it?",
    "What is the number of characters?",
    "How many characters can you see?",
    "Tell me how many characters there are.",
)
"""Ways to ask for the length."""

MIN_CAP_HEIGHT = 11.0
"""Height of a capital in pixels that remains when the whole picture is shrunk to one tile."""
MIN_ADVANCE = 7.0
"""Mean width of a character in pixels that remains when the whole picture is shrunk to one tile."""

_CAP_HEIGHTS = (14.0, 40.0)
_LENGTHS, _LENGTH_WEIGHTS = (1, 2, 3, 4, 5, 6), (12, 22, 29, 28, 6, 3)
_ALIKE = frozenset("O0")
_CONSONANTS, _VOWELS = "BCDFGHJKLMNPRSTVWZ", "AEIOU"
_WORDS_BY_LENGTH = {
    length: tuple(word for word in WORDS if len(word) == length) for length in (2, 3, 4, 5, 6)
}
_MIXED = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"


@dataclass(frozen=True)
class _Glyph:
    mask: Image.Image
    left: int
    top: int  # above the base line, negative
    advance: int


@lru_cache(maxsize=2048)
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=16384)
def _glyph(name: str, size: int, glyph: str) -> _Glyph:
    font = _font(name, size)
    left, top, right, bottom = (round(edge) for edge in font.getbbox(glyph, anchor="ls"))
    # Pillow counts the advance into the box and may leave ink out of it, so draw with room to spare
    # and keep what has ink.
    left, top = left - size, top - size
    mask = Image.new("L", (right + size - left, bottom + size - top))
    ImageDraw.Draw(mask).text((-left, -top), glyph, fill=255, font=font, anchor="ls")
    inked = mask.getbbox()
    assert inked is not None, f"{name} prints nothing for {glyph}"
    return _Glyph(mask.crop(inked), left + inked[0], top + inked[1], round(font.getlength(glyph)))


@lru_cache(maxsize=64)
def _cap_share(name: str) -> float:
    """Height of a capital as a share of the font size."""
    return -_font(name, 200).getbbox("H", anchor="ls")[1] / 200


def _draw_text(rng: random.Random, length: int) -> str:
    kind = rng.random()
    if kind < 0.33:
        return "".join(rng.choices("0123456789", k=length))
    if kind < 0.53 or length == 1:
        return "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=length))
    if kind < 0.63:
        return "".join(rng.choices(_MIXED, k=length))
    if kind < 0.80:
        start = rng.randrange(2)
        return "".join(
            rng.choice(_VOWELS if (start + place) % 2 else _CONSONANTS) for place in range(length)
        )
    return rng.choice(_WORDS_BY_LENGTH[length])


def _choose_text(rng: random.Random, level: float) -> str:
    length = rng.randint(1, 2)
    if is_hard(rng, level):
        length = rng.choices(_LENGTHS, _LENGTH_WEIGHTS)[0]
    while True:
        text = _draw_text(rng, length)
        # With nothing else beside it, O cannot be told from 0 in every font.
        if not _ALIKE.issuperset(text):
            return text


def _brightness(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _choose_inks(rng: random.Random, level: float) -> tuple[Colour, Colour]:
    """Colours of print and paper."""
    if not is_hard(rng, level):
        return (0, 0, 0), (255, 255, 255)
    style = rng.random()
    if style < 0.55:
        grey, shift = rng.randint(0, 70), rng.randint(200, 255)
        pair = (grey,) * 3, (shift,) * 3
        return pair if style < 0.35 else pair[::-1]
    while True:
        red, green, blue, *paper = (rng.randrange(256) for _ in range(6))
        ink = (red, green, blue)
        ground = (paper[0], paper[1], paper[2])
        if abs(_brightness(ink) - _brightness(ground)) >= 95:
            return ink, ground


def _size_range(text: str, font: str, canvas: Canvas) -> tuple[float, float]:
    """Smallest and largest legible font size; the first exceeds the second if there is none."""
    cap = _cap_share(font)
    width = sum(_glyph(font, 100, glyph).advance for glyph in text) / 100
    across, down = canvas.shrink
    pixels_per_tile_pixel = canvas.height / (TILE_SIZE * canvas.rows)
    low = max(
        MIN_CAP_HEIGHT * down / cap,
        _CAP_HEIGHTS[0] * pixels_per_tile_pixel / cap,
        MIN_ADVANCE * across * len(text) / width,
    )
    high = min(
        _CAP_HEIGHTS[1] * pixels_per_tile_pixel / cap,
        (0.94 * canvas.width - 6) / width,
        (0.9 * canvas.height - 6) / cap,
    )
    return math.ceil(low + 0.5), math.floor(high)


def _paste(image: Image.Image, glyph: _Glyph, left: int, base: int, ink: Colour) -> None:
    image.paste(ink, (left + glyph.left, base + glyph.top), glyph.mask)


def _box(glyph: _Glyph, left: int, base: int) -> tuple[float, float, float, float]:
    x, y = left + glyph.left, base + glyph.top
    return (x, y, x + glyph.mask.width, y + glyph.mask.height)


def _choose_size(rng: random.Random, text: str, level: float) -> tuple[Canvas, str, int]:
    font = rng.choice(FONTS) if is_hard(rng, level) else FONTS[0]
    canvas = choose_canvas(rng, level)
    while True:
        low, high = _size_range(text, font, canvas)
        if low <= high:
            if is_hard(rng, level):
                size = low * (high / low) ** rng.random()
            else:
                size = rng.uniform(0.4 * low + 0.6 * high, high)
            return canvas, font, round(size)
        canvas = choose_tile_canvas(rng)


def _ask(rng: random.Random, text: str) -> tuple[Turn, ...]:
    # Reading comes first: it is what evaluation asks, and the others follow from its answer.
    wordings: tuple[str, ...] = WORDINGS
    if rng.random() < 0.5:
        if text.isdigit():
            wordings = NUMBER_WORDINGS
        elif text.isalpha() and len(text) > 1:
            wordings = WORD_WORDINGS
    turns = [Turn(rng.choice(wordings), text)]
    if len(text) > 1 and rng.random() < 0.5:
        extra = [
            Turn(rng.choice(FIRST_WORDINGS), text[0]),
            Turn(rng.choice(LAST_WORDINGS), text[-1]),
            Turn(rng.choice(LENGTH_WORDINGS), str(len(text))),
        ]
        turns += rng.sample(extra, rng.randint(1, 2))
    return tuple(turns)


class Reading:
    """One to six capitals or digits in one of many fonts; the answer is the text itself."""

    name = "reading"

    def draw(self, rng: random.Random, level: float) -> Drawing:
        """Print one text; a higher level has longer, smaller and more colourful ones anywhere."""
        text = _choose_text(rng, level)
        canvas, font, size = _choose_size(rng, text, level)
        ink, paper = _choose_inks(rng, level)
        glyphs = [_glyph(font, size, glyph) for glyph in text]
        width = sum(glyph.advance for glyph in glyphs)
        above = max(-glyph.top for glyph in glyphs)
        below = max(glyph.top + glyph.mask.height for glyph in glyphs)
        room_x, room_y = canvas.width - width, canvas.height - above - below
        if is_hard(rng, level):
            left, top = rng.randint(3, max(3, room_x - 3)), rng.randint(2, max(2, room_y - 2))
        else:
            left, top = room_x // 2, room_y // 2
        base = top + above
        image = Image.new("RGB", (canvas.width, canvas.height), paper)
        marks: list[Mark] = []
        for letter, glyph in zip(text, glyphs, strict=True):
            _paste(image, glyph, left, base, ink)
            marks.append(Mark(f"glyph:{letter}", _box(glyph, left, base)))
            left += glyph.advance
        return Drawing(self.name, image, _ask(rng, text), tuple(marks))

    def is_right(self, expected: str, answer: str) -> bool:
        """Whether the answer is the text, character by character, capitals included."""
        return exact_match(expected, answer, is_literal=True)


def draw_page(rng: random.Random, level: float) -> Drawing:
    """Fill one tile with lines of random characters, one mark each and no questions.

    Args:
        rng: source of chance.
        level: 0 for black on white in one font to 1 for colours and all fonts.

    Returns:
        A drawing of the size of a tile whose family is ``"page"``.
    """
    font = rng.choice(FONTS) if is_hard(rng, level) else FONTS[0]
    cap_height = rng.uniform(11, 26) if is_hard(rng, level) else rng.uniform(12, 18)
    size = round(cap_height / _cap_share(font))
    ink, paper = _choose_inks(rng, level)
    image = Image.new("RGB", (TILE_SIZE, TILE_SIZE), paper)
    marks: list[Mark] = []
    base = round(cap_height) + rng.randint(3, 9)  # round letters rise above the others
    while base + 0.36 * cap_height < TILE_SIZE:  # room for the longest tail, that of a Q
        left = rng.randint(1, 8)
        while True:
            letter = rng.choice(GLYPHS)
            glyph = _glyph(font, size, letter)
            left = max(left, -glyph.left)
            if left + max(glyph.advance, glyph.left + glyph.mask.width) > TILE_SIZE - 1:
                break
            _paste(image, glyph, left, base, ink)
            marks.append(Mark(f"glyph:{letter}", _box(glyph, left, base)))
            left += glyph.advance + (rng.randint(3, 12) if rng.random() < 0.15 else 0)
        base += round(cap_height) + rng.randint(3, 9)
    return Drawing("page", image, (), tuple(marks))
