"""Reading a printed word or number, and pages of print that warm up a vision tower.

Picture sizes are left to :mod:`internvl35.data.synthetic.scene`. No counterpart in the paper.
"""

from __future__ import annotations

import math
import random

from PIL import Image

from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn, wordings
from internvl35.data.synthetic.fonts import (
    Colour,
    cap_share,
    choose_font,
    print_line,
    size_for_caps,
    text_width,
)
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.scene import (
    TILE_SIZE,
    Canvas,
    choose_canvas,
    choose_tile_canvas,
)
from internvl35.data.synthetic.words import WORDS
from internvl35.scoring import exact_match

WORDINGS = wordings(
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

WORD_WORDINGS = wordings(
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

NUMBER_WORDINGS = wordings(
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

FIRST_WORDINGS = wordings(
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

LAST_WORDINGS = wordings(
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

LENGTH_WORDINGS = wordings(
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


def _choose_text(chance: Chance) -> str:
    rng = chance.rng
    length = rng.randint(1, 2)
    if chance.is_hard():
        length = rng.choices(_LENGTHS, _LENGTH_WEIGHTS)[0]
    while True:
        text = _draw_text(rng, length)
        # With nothing else beside it, O cannot be told from 0 in every font.
        if not _ALIKE.issuperset(text):
            return text


def _brightness(colour: Colour) -> float:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _choose_inks(chance: Chance) -> tuple[Colour, Colour]:
    """Colours of print and paper."""
    rng = chance.rng
    if not chance.is_hard():
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
    cap = cap_share(font)
    width = text_width(text, font, 100) / 100
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


def _choose_size(chance: Chance, text: str) -> tuple[Canvas, str, int]:
    rng = chance.rng
    font = choose_font(chance, text)
    canvas = choose_canvas(chance)
    while True:
        low, high = _size_range(text, font, canvas)
        if low <= high:
            if chance.is_hard():
                size = low * (high / low) ** rng.random()
            else:
                size = rng.uniform(0.4 * low + 0.6 * high, high)
            return canvas, font, round(size)
        canvas = choose_tile_canvas(rng)


def _ask(chance: Chance, text: str) -> tuple[Turn, ...]:
    # Reading comes first: it is what evaluation asks, and the others follow from its answer.
    rng = chance.rng
    kind = "number" if text.isdigit() else "word"
    asked: Pool[str] = WORDINGS
    if rng.random() < 0.5:
        if text.isdigit():
            asked = NUMBER_WORDINGS
        elif text.isalpha() and len(text) > 1:
            asked = WORD_WORDINGS
    turns = [chance.turn(asked, text, kind)]
    if len(text) > 1 and rng.random() < 0.5:
        extra = [
            chance.turn(FIRST_WORDINGS, text[0], "first"),
            chance.turn(LAST_WORDINGS, text[-1], "last"),
            chance.turn(LENGTH_WORDINGS, str(len(text)), "length"),
        ]
        turns += rng.sample(extra, rng.randint(1, 2))
    return tuple(turns)


class Reading:
    """One to six capitals or digits in one of many fonts; the answer is the text itself."""

    name = "reading"

    def draw(self, chance: Chance) -> Drawing:
        """Print one text; a higher level has longer, smaller and more colourful ones anywhere."""
        rng = chance.rng
        text = _choose_text(chance)
        canvas, font, size = _choose_size(chance, text)
        ink, paper = _choose_inks(chance)
        cap = round(cap_share(font) * size)
        room_x, room_y = canvas.width - text_width(text, font, size), canvas.height - cap
        if chance.is_hard():
            left, top = rng.randint(3, max(3, room_x - 3)), rng.randint(2, max(2, room_y - 2))
        else:
            left, top = room_x // 2, room_y // 2
        image = Image.new("RGB", (canvas.width, canvas.height), paper)
        marks = print_line(image, text, font, size, (left, top + cap), ink)
        return Drawing(
            self.name, (image,), _ask(chance, text), (tuple(marks),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the text, character by character, capitals included."""
        return {"right": float(exact_match(turn.answer, answer, is_literal=True))}


def draw_page(chance: Chance) -> Drawing:
    """Fill one tile with lines of random characters, one mark each and no questions.

    Args:
        chance: an easy page is black on white in one font.

    Returns:
        A drawing of the size of a tile whose family is ``"page"``.
    """
    rng = chance.rng
    font = choose_font(chance, "")
    cap_height = rng.uniform(8, 30) if chance.is_hard() else rng.uniform(13, 20)
    size = size_for_caps(font, cap_height)
    ink, paper = _choose_inks(chance)
    image = Image.new("RGB", (TILE_SIZE, TILE_SIZE), paper)
    marks: list[Mark] = []
    base = round(cap_height) + rng.randint(3, 9)  # round letters rise above the others
    while base + 0.36 * cap_height < TILE_SIZE:  # room for the longest tail, that of a Q
        line = ""
        room = TILE_SIZE - 10 - rng.randint(0, 20)
        while True:
            letter = " " if line and rng.random() < 0.12 else rng.choice(_PAGE_GLYPHS)
            if text_width(line + letter, font, size) > room:
                break
            line += letter
        left = rng.randint(2, 8)
        marks += print_line(image, line, font, size, (left, base), ink)
        base += round(1.3 * cap_height) + rng.randint(3, 9)
    return Drawing("page", (image,), (), (tuple(marks),), unseen=chance.unseen)


_PAGE_GLYPHS = (
    "0123456789" * 3
    + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 2
    + "abcdefghijklmnopqrstuvwxyz" * 2
    + ".,:;!?'()[]+-*/=%&#@"
)
