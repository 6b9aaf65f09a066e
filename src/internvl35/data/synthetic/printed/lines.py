"""Reading lines of print, whole ones and single words, alone or one of two or three.

What they say is left to :mod:`internvl35.data.synthetic.printed.phrases`, how they are set to
:mod:`internvl35.data.synthetic.printed.typesetting`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from internvl35.data.synthetic.canvas import Canvas, choose_canvas, choose_tile_canvas
from internvl35.data.synthetic.drawing import Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.printed.fonts import can_print, cap_share, choose_font, text_width
from internvl35.data.synthetic.printed.phrases import LEAST_LIMIT, choose_phrase
from internvl35.data.synthetic.printed.typesetting import (
    Block,
    Legible,
    choose_inks,
    place_block,
    set_block,
)
from internvl35.scoring import edit_distance

LINE_WORDINGS = wordings(
    "Read the line.",
    "What does the line say?",
    "What is written here?",
    "Read out the text.",
    "What does the text say?",
    "Please read the line of text.",
    "Transcribe the text.",
    "Write down the line of text.",
    "What text is in the image?",
    "Copy the text exactly as it is printed.",
    "Transcribe the line. Answer with the text only.",
    "What does the printed line say?",
    "Please transcribe the text in the image.",
    "Which text do you see?",
    "Tell me what the line says.",
    "What is printed in the picture?",
)
"""Ways to ask for the only line."""

NTH_WORDINGS = wordings(
    "Read the {nth} line.",
    "What does the {nth} line say?",
    "What is written in the {nth} line?",
    "Please read the {nth} line.",
    "Transcribe the {nth} line.",
    "Tell me what the {nth} line says.",
    "What is the {nth} line?",
    "Read only the {nth} line.",
    "Write down the {nth} line of text.",
    "What is printed in the {nth} line?",
    "Copy the {nth} line exactly.",
    "Give the text of the {nth} line.",
    "Which text stands in the {nth} line?",
)
"""Ways to ask for one of several lines; ``{nth}`` is "second" or the like."""

FIRST_WORDINGS = wordings(
    "What is the first word?",
    "Which word comes first?",
    "Read the first word.",
    "Read only the first word.",
    "Which word does the line begin with?",
    "What word does the text start with?",
    "Tell me the first word.",
    "What is the first word of the text?",
    "Give the first word of the line.",
    "With which word does it begin?",
    "Write down the first word.",
    "Please read the first word of the text.",
)
"""Ways to ask for the first word of the only line."""

LAST_WORDINGS = wordings(
    "What is the last word?",
    "Which word comes last?",
    "Read the last word.",
    "Read only the last word.",
    "Which word does the line end with?",
    "What word does the text end with?",
    "Tell me the last word.",
    "What is the last word of the text?",
    "Give the last word of the line.",
    "With which word does it end?",
    "Write down the last word.",
    "Please read the last word of the text.",
)
"""Ways to ask for the last word of the only line."""

COUNT_WORDINGS = wordings(
    "How many words are there?",
    "How many words does the line have?",
    "Count the words.",
    "What is the number of words?",
    "How many words can you see?",
    "How many words are printed?",
    "Tell me how many words there are.",
    "How many words does the text have?",
    "Count the words in the text.",
    "How many words are in the line?",
    "How many words do you count?",
    "How many words is the text? Answer with a number.",
)
"""Ways to ask for the number of words of the only line."""

NUM_LINES_WORDINGS = wordings(
    "How many lines of text are there?",
    "How many lines does the text have?",
    "Count the lines.",
    "What is the number of lines?",
    "How many lines can you see?",
    "How many lines are printed?",
    "Tell me how many lines there are.",
    "How many lines of print does the picture show?",
    "Count the lines of text.",
    "How many lines does the text fill?",
    "How many lines do you count?",
    "How many lines is the text? Answer with a number.",
)
"""Ways to ask for the number of lines."""

SMALLEST = Legible(cap_height=9.0, advance=5.0, largest=40.0)
"""How small a line may get."""

MAX_LINE = 28
"""Most characters of a line that stands alone."""

MAX_NTH_LINE = 18
"""Most characters of one of several lines."""

_SAMPLE = "The Quick Brown FOX 123 jumps over"
_NTHS = {
    2: (("first", "top", "upper"), ("second", "last", "bottom", "lower")),
    3: (("first", "top"), ("second", "middle"), ("third", "last", "bottom")),
}
_PUNCTUATION = ".,:!?()"


def line_scores(expected: str, answer: str) -> dict[str, float]:
    """Compare a line that was read with the printed one.

    Args:
        expected: what is printed; any white space counts as one blank.
        answer: what was read, likewise.

    Returns:
        ``right``, whether they are equal, and ``characters``, the share of characters that need
        no edit.
    """
    wanted, found = " ".join(expected.split()), " ".join(answer[:1000].split())
    return {
        "right": float(wanted == found),
        "characters": 1.0 - edit_distance(wanted, found),
    }


def room_for_characters(font: str, canvas: Canvas) -> int:
    """About how many characters of the smallest legible print a line has room for.

    Args:
        font: name of the font.
        canvas: the picture.
    """
    size = 100
    advance = text_width(_SAMPLE, font, size) / len(_SAMPLE) / size
    smallest = (SMALLEST.cap_height + 0.5) * canvas.shrink[1] / cap_share(font)
    return int(min(canvas.width - 10, 0.95 * canvas.width) / (advance * smallest))


def _choose_canvas(chance: Chance, font: str) -> tuple[Canvas, int]:
    """A picture and how many characters a line may have on it."""
    canvas = choose_canvas(chance)
    while True:
        room = room_for_characters(font, canvas)
        if room >= LEAST_LIMIT + 4:
            return canvas, room
        canvas = choose_tile_canvas(chance.rng)


def _choose_lines(chance: Chance, font: str, room: int) -> list[str]:
    rng = chance.rng
    num = rng.choice((1, 1, 2, 3)) if chance.is_hard() else 1
    longest = min(room - 2, MAX_LINE if num == 1 else MAX_NTH_LINE)
    lines: list[str] = []
    while len(lines) < num:
        limit = LEAST_LIMIT
        if chance.is_hard():  # many phrases stay well below their limit
            limit = max(rng.randint(LEAST_LIMIT, longest) for _ in range(2))
        line = choose_phrase(chance, limit, has_dollar=can_print(font, "$"))
        if line not in lines:
            lines.append(line)
    return lines


def _set(chance: Chance) -> tuple[Canvas, Block]:
    font = choose_font(chance, "")
    canvas, room = _choose_canvas(chance, font)
    align = chance.rng.choice((0.0, 0.0, 0.5)) if chance.is_hard() else 0.0
    while True:
        lines = _choose_lines(chance, font, room)
        for _ in range(6):
            block = set_block(chance, lines, font, canvas, SMALLEST, align=align)
            if block is not None:
                return canvas, block
            canvas = choose_tile_canvas(chance.rng)
        room = max(LEAST_LIMIT + 2, room - 4)


def _ask(chance: Chance, lines: Sequence[str]) -> tuple[Turn, ...]:
    rng = chance.rng
    num_lines = chance.turn(NUM_LINES_WORDINGS, str(len(lines)), "line count")
    if len(lines) > 1:
        nths = _NTHS[len(lines)]
        turns = [
            chance.turn(NTH_WORDINGS, line, "which line", parts={"nth": rng.choice(names)})
            for line, names in zip(lines, nths, strict=True)
        ]
        rng.shuffle(turns)
        turns.insert(rng.choice((0, 1, 1, 2, 2)), num_lines)
        return tuple(turns)
    turns = [chance.turn(LINE_WORDINGS, lines[0], "line")]
    words = [word.strip(_PUNCTUATION) for word in lines[0].split()]
    others = [num_lines]
    if all(word.isalpha() for word in words):
        others.append(chance.turn(COUNT_WORDINGS, str(len(words)), "word count"))
        if len(words) > 1:
            others.append(chance.turn(FIRST_WORDINGS, words[0], "first word"))
            others.append(chance.turn(LAST_WORDINGS, words[-1], "last word"))
    turns += rng.sample(others, min(len(others), rng.randint(2, 3)))
    if rng.random() < 0.4:  # most pictures are asked for the line, by far the hardest
        rng.shuffle(turns)
    return tuple(turns)


class Lines:
    """One to three short lines of print; the answer is a line or a word of it."""

    name = "lines"

    def draw(self, chance: Chance) -> Drawing:
        """Print the lines; a higher level has longer and smaller ones with more than words."""
        canvas, block = _set(chance)
        ink, paper = choose_inks(chance)
        image = Image.new("RGB", (canvas.width, canvas.height), paper)
        marks = block.print_at(image, *place_block(chance, block, canvas), ink)
        turns = _ask(chance, block.lines)
        return Drawing(self.name, (image,), turns, (marks,), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if every character is; ``characters`` tells how near an answer is."""
        return line_scores(turn.answer, answer)
