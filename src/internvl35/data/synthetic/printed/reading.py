"""Reading a printed word or number, or one of several that colour, place or size tells apart.

What is printed is left to :mod:`internvl35.data.synthetic.printed.words`, how to
:mod:`internvl35.data.synthetic.printed.typesetting`. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from internvl35.data.synthetic.canvas import Canvas, choose_canvas, choose_tile_canvas, is_apart
from internvl35.data.synthetic.colours import (
    COLOURS,
    Colour,
    brightness,
    choose_background,
    vary_colour,
)
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Pool, Turn
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import choose_font
from internvl35.data.synthetic.printed.reading_wordings import (
    COLOURED_WORDINGS,
    FIRST_WORDINGS,
    INK_WORDINGS,
    LARGEST_WORDINGS,
    LAST_WORDINGS,
    LENGTH_WORDINGS,
    NUMBER_WORDINGS,
    PLACED_WORDINGS,
    TEXT_WORDINGS,
    WORD_WORDINGS,
)
from internvl35.data.synthetic.printed.typesetting import (
    Block,
    Legible,
    bound_marks,
    choose_inks,
    place_block,
    set_block,
)
from internvl35.data.synthetic.printed.words import (
    MAX_LENGTH,
    choose_code,
    choose_number,
    choose_word,
)
from internvl35.scoring import exact_match

ALONE = Legible(cap_height=11.0, advance=7.0)
"""How small a text that stands alone may get."""

AMONG_OTHERS = Legible(cap_height=10.0, advance=6.0, largest=36.0)
"""How small one of several texts may get."""

IN_A_ROW = Legible(cap_height=10.0, advance=6.0, largest=22.0)
"""How small one of several texts beside each other may get."""

_PATIENCE = 200
"""Attempts to print several texts before narrow letters may be narrower than ``Legible`` says."""

_LENGTHS, _WEIGHTS = tuple(range(1, MAX_LENGTH + 1)), (5, 10, 16, 17, 17, 14, 11, 10)
_SEVERAL_SHARE = 0.4
_PRINT_CONTRAST = 62.0
_PLACES = ("at the top", "at the bottom", "on the left", "on the right")


@dataclass(frozen=True)
class _Printed:
    """One of several texts on a picture."""

    text: str
    colour: str
    size: int
    box: Box
    marks: tuple[Mark, ...]


def _choose_text(chance: Chance) -> tuple[str, str]:
    """A text and what it is: word, number or text."""
    rng = chance.rng
    length = rng.choices(_LENGTHS, _WEIGHTS)[0] if chance.is_hard() else rng.randint(1, 3)
    style = rng.random()
    if style < 0.36:
        return choose_number(chance, length), "number"
    if style < 0.43 and length > 1:
        return choose_code(chance, length), "text"
    return choose_word(chance, length), "word"


def _ask(chance: Chance, text: str, noun: str) -> tuple[Turn, ...]:
    rng = chance.rng
    asked: Pool[str] = TEXT_WORDINGS
    if rng.random() < 0.5 and len(text) > 1:
        asked = {"number": NUMBER_WORDINGS, "word": WORD_WORDINGS}.get(noun, TEXT_WORDINGS)
    whole = chance.turn(asked, text, "number" if noun == "number" else "word")
    others = [chance.turn(LENGTH_WORDINGS, str(len(text)), "length")]
    if len(text) > 1:
        others.append(chance.turn(FIRST_WORDINGS, text[0], "first"))
        others.append(chance.turn(LAST_WORDINGS, text[-1], "last"))
    turns = [whole, *rng.sample(others, rng.randint(1, len(others)))]
    if rng.random() < 0.4:  # most pictures are asked for the whole, by far the hardest
        rng.shuffle(turns)
    return tuple(turns)


def _set_alone(chance: Chance, text: str) -> tuple[Canvas, Block]:
    font = choose_font(chance, text)
    canvas = choose_canvas(chance)
    while True:
        block = set_block(chance, [text], font, canvas, ALONE)
        if block is not None:
            return canvas, block
        canvas = choose_tile_canvas(chance.rng)


def _choose_colours(chance: Chance, num: int, paper: Colour) -> list[tuple[str, Colour]]:
    """Names and shades of different inks that stand out from a paper."""
    names = list(COLOURS)
    chance.rng.shuffle(names)
    inks = [(name, vary_colour(chance, name)) for name in names]
    apart = [ink for ink in inks if abs(brightness(ink[1]) - brightness(paper)) > _PRINT_CONTRAST]
    return apart[:num]


def _find_place(
    chance: Chance, block: Block, canvas: Canvas, others: Sequence[Box], *, is_row: bool
) -> Box | None:
    gap_x, gap_y = (6 * shrink for shrink in canvas.shrink)
    if is_row:
        gap_y = math.inf  # above each other does not count
    left, top, right, bottom = block.ink
    for _ in range(12):
        x, y = place_block(chance, block, canvas)
        box = (x, y, x + right - left, y + bottom - top)
        if all(is_apart(box, other, gap_x, gap_y) for other in others):
            return box
    return None


def _print_several(
    chance: Chance, texts: Sequence[str], *, is_row: bool
) -> tuple[Image.Image, list[_Printed]]:
    """Print texts apart from each other; those of a row are also beside each other."""
    font = choose_font(chance, "".join(texts))
    canvas = choose_canvas(chance)
    paper = choose_background(chance)
    inks = _choose_colours(chance, len(texts), paper)
    legible = IN_A_ROW if is_row else AMONG_OTHERS
    num_attempts = 0
    while True:
        num_attempts += 1
        image = Image.new("RGB", (canvas.width, canvas.height), paper)
        printed: list[_Printed] = []
        for text, (name, ink) in zip(texts, inks, strict=True):
            block = set_block(chance, [text], font, canvas, legible)
            others = [other.box for other in printed]
            if block is None:
                break
            place = _find_place(chance, block, canvas, others, is_row=is_row)
            if place is None:
                break
            marks = block.print_at(image, int(place[0]), int(place[1]), ink)
            printed.append(_Printed(text, name, block.size, bound_marks(marks), marks))
        if len(printed) == len(texts):
            return image, printed
        canvas = choose_tile_canvas(chance.rng)
        largest = max(1.3 * legible.cap_height, 0.8 * legible.largest)
        legible = replace(legible, largest=largest)  # until there is room for all
        if num_attempts >= _PATIENCE:  # "li" is narrow in any size
            legible = replace(legible, advance=0.9 * legible.advance)


def _find_places(printed: Sequence[_Printed]) -> dict[str, _Printed]:
    """The texts that stand wholly beyond all others, by the side they stand on."""
    found: dict[str, _Printed] = {}
    for text in printed:
        others = [other.box for other in printed if other is not text]
        left, top, right, bottom = text.box
        beyond = (
            all(bottom <= other[1] for other in others),
            all(top >= other[3] for other in others),
            all(right <= other[0] for other in others),
            all(left >= other[2] for other in others),
        )
        found |= {place: text for place, is_so in zip(_PLACES, beyond, strict=True) if is_so}
    return found


def _ask_which(chance: Chance, printed: Sequence[_Printed], noun: str) -> tuple[Turn, ...]:
    rng = chance.rng
    turns: list[Turn] = []
    for text in rng.sample(printed, 2):
        parts = {"noun": noun, "colour": text.colour, "text": text.text}
        turns.append(chance.turn(COLOURED_WORDINGS, text.text, "which word", parts=parts))
    text = rng.choice(printed)
    parts = {"noun": noun, "text": text.text}
    turns.append(chance.turn(INK_WORDINGS, text.colour, "word colour", parts=parts))
    places = _find_places(printed)
    for place in rng.sample(sorted(places), min(2, len(places))):
        parts = {"noun": noun, "place": place}
        turns.append(chance.turn(PLACED_WORDINGS, places[place].text, "which word", parts=parts))
    sizes = sorted(printed, key=lambda text: text.size)
    if sizes[-1].size > 1.4 * sizes[-2].size:
        asked = chance.turn(LARGEST_WORDINGS, sizes[-1].text, "which word", parts={"noun": noun})
        turns.append(asked)
    rng.shuffle(turns)
    return tuple(turns[: rng.randint(3, 4)])


class Reading:
    """Words and numbers of one to eight characters; the answer is the text itself."""

    name = "reading"

    def draw(self, chance: Chance) -> Drawing:
        """Print a text or several; a higher level has longer, smaller ones in any colour."""
        if chance.is_hard() and chance.rng.random() < _SEVERAL_SHARE:
            return self._draw_several(chance)
        text, noun = _choose_text(chance)
        canvas, block = _set_alone(chance, text)
        ink, paper = choose_inks(chance)
        image = Image.new("RGB", (canvas.width, canvas.height), paper)
        marks = block.print_at(image, *place_block(chance, block, canvas), ink)
        turns = _ask(chance, text, noun)
        return Drawing(self.name, (image,), turns, (marks,), unseen=chance.unseen)

    def _draw_several(self, chance: Chance) -> Drawing:
        rng = chance.rng
        noun = "number" if rng.random() < 0.25 else "word"
        choose = choose_number if noun == "number" else choose_word
        texts: list[str] = []
        is_row = rng.random() < 0.35
        num, longest = rng.choice(
            ((2, 4), (2, 4), (3, 3)) if is_row else ((2, 7), (3, 7), (3, 7), (4, 7))
        )
        while len(texts) < num:
            text = choose(chance, rng.randint(2, longest))
            if text.lower() not in (other.lower() for other in texts):
                texts.append(text)
        image, printed = _print_several(chance, texts, is_row=is_row)
        marks = [
            mark
            for text in printed
            for mark in (*text.marks, Mark(f"colour:{text.colour}", text.box))
        ]
        turns = _ask_which(chance, printed, noun)
        return Drawing(self.name, (image,), turns, (tuple(marks),), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the text, character by character, capitals included."""
        return {"right": float(exact_match(turn.answer, answer, is_literal=True))}
