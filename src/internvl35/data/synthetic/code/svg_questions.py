"""Questions about SVG code without a picture: how many, which colour, which shape, where.

The code is left to :mod:`internvl35.data.synthetic.code.svg_code`. The form is that of SGP-Bench
(Qiu et al., arXiv 2408.08313), which the paper's section 3.14 reports: the question follows the
code, with four choices or without.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.code.svg_code import SVG_COLOURS, SVG_SHAPES, SvgShape, write_svg
from internvl35.data.synthetic.code.svg_drawing import choose_shapes
from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn, wordings
from internvl35.data.synthetic.naming import plural, with_article

FRAMES = wordings(
    "Examine the following SVG code carefully and answer the question based on your interpretation "
    "of the rendered image.\n\n{code}\n\nQuestion: {question}",
    "{code}\n\n{question}",
    "{code}\n{question}",
    "This is SVG code:\n{code}\n{question}",
    "Here is an SVG:\n{code}\n\n{question}",
    "Read this SVG code.\n{code}\n{question}",
    "{question}\n\n{code}",
    "Look at the SVG code below.\n\n{code}\n\n{question}",
    "SVG code: {code}\n\nQuestion: {question}",
    "Imagine the picture that this SVG code draws.\n{code}\n{question}",
    "```svg\n{code}\n```\n{question}",
    "Answer a question about this SVG.\n{code}\nQuestion: {question}",
    "Consider the rendered image of this code.\n{code}\n\n{question}",
    "Given the SVG code {code}, answer: {question}",
    "What follows is the code of a picture.\n\n{code}\n\n{question}",
    "Study the SVG and answer.\n{code}\nQuestion: {question}",
)
"""Where the code stands; ``{question}`` brings its choices along."""

COUNT_WORDINGS = wordings(
    "How many {things} are there?",
    "How many {things} does the code draw?",
    "How many {things} are in the picture?",
    "How many {things} would you see?",
    "How many {things} does it show?",
    "Count the {things}.",
    "What is the number of {things}?",
    "State the number of {things}.",
    "How many {things} appear in the image?",
    "How many {things} are drawn?",
    "Tell me how many {things} there are.",
    "How many {things} does the rendered image have?",
)
"""Ways to ask for a number; ``{things}`` is a plural."""

COLOUR_WORDINGS = wordings(
    "What colour is the {name}?",
    "What color is the {name}?",
    "Which colour does the {name} have?",
    "Which color does the {name} have?",
    "In which colour is the {name} drawn?",
    "In what color is the {name} drawn?",
    "What is the colour of the {name}?",
    "With which color is the {name} drawn?",
    "The {name} has which colour?",
    "Name the color of the {name}.",
    "Tell me the colour of the {name}.",
    "Which color is the {name} filled with?",
)
"""Ways to ask for a colour; ``{name}`` is a shape."""

SHAPE_WORDINGS = wordings(
    "What shape is {name}?",
    "Which shape is {name}?",
    "What shape is the {name} one?",
    "Which shape is drawn in {name}?",
    "What is the shape of the {name} object?",
    "Name the shape that is {name}.",
    "Which shape has the colour {name}?",
    "Which shape has the color {name}?",
    "What kind of shape is {name}?",
    "Tell me which shape is {name}.",
    "The {name} object has which shape?",
    "What is drawn in {name}?",
)
"""Ways to ask for a shape; ``{name}`` is a colour."""

ACROSS_WORDINGS = wordings(
    "Is the {name} on the left or on the right?",
    "Is the {name} in the left or the right half?",
    "On which side is the {name}, left or right?",
    "Where is the {name}: left or right?",
    "Does the {name} lie on the left or on the right?",
    "Left or right: where is the {name}?",
    "Which half has the {name}, left or right?",
    "In which half is the {name}, the left or the right one?",
    "Would you see the {name} on the left or the right?",
    "Is the {name} left or right of the middle?",
    "Left half or right half: where does the {name} appear?",
    "Say whether the {name} is on the left or the right.",
)
"""Ways to ask for a side; ``{name}`` is colour and shape."""

DOWN_WORDINGS = wordings(
    "Is the {name} at the top or at the bottom?",
    "Is the {name} in the top or the bottom half?",
    "Where is the {name}: top or bottom?",
    "Does the {name} lie at the top or at the bottom?",
    "Top or bottom: where is the {name}?",
    "Which half has the {name}, top or bottom?",
    "In which half is the {name}, the top or the bottom one?",
    "Would you see the {name} at the top or the bottom?",
    "Is the {name} nearer to the top or to the bottom?",
    "Top half or bottom half: where does the {name} appear?",
    "Say whether the {name} is at the top or the bottom.",
    "At which end is the {name}, top or bottom?",
)
"""Ways to ask for the upper or lower half."""

QUARTER_WORDINGS = wordings(
    "In which quarter of the picture is the {name}?",
    "Which quarter of the image has the {name}?",
    "In which corner region is the {name}?",
    "Which corner is the {name} nearest to?",
    "Where in the picture is the {name}?",
    "Where is the {name}?",
    "Where would you see the {name}?",
    "In what part of the image does the {name} lie?",
    "Where does the {name} appear?",
    "Which part of the canvas has the {name}?",
    "Name the quarter in which the {name} is drawn.",
    "Where on the canvas is the {name} placed?",
)
"""Ways to ask for one of four quarters."""

QUARTERS = ("top left", "top right", "bottom left", "bottom right")
"""What the quarters of the canvas are called."""

CHOICE_SHARE = 0.5
"""How often there are choices."""

_LETTERS = "ABCD"
_MARKERS = ("{letter}) {choice}", "{letter}. {choice}", "({letter}) {choice}", "{letter}: {choice}")
_REQUESTS = (
    "",
    "\nAnswer with the letter.",
    "\nAnswer with the option's letter from the given choices directly.",
    "\nPlease select the correct answer from the options above.",
)
_CLEAR = 10  # units between the middle of a shape and the middle of the canvas
_SPECIAL_CASES = {"rectangle": "square", "ellipse": "circle"}  # the first may count the second
_SIDES = {1: (25, 60), 2: (25, 45), 3: (20, 40), 4: (20, 30)}


@dataclass(frozen=True)
class _Question:
    kind: str
    asked: Pool[str]
    parts: dict[str, str]
    answer: str
    choices: Sequence[str]  # others than the answer, likely ones first
    reasoning: str


def _choose(chance: Chance) -> list[SvgShape]:
    # Some shape or colour occurs several times, or nearly every count would be 0 or 1.
    rng = chance.rng
    num = rng.choices((1, 2, 3, 4), (1, 2, 3, 4))[0] if chance.is_hard() else rng.randint(1, 2)
    num_same = rng.randint(0, num)
    shapes = rng.sample(SVG_SHAPES, len(SVG_SHAPES))
    colours = rng.sample(SVG_COLOURS, rng.randint(max(2, num - 1), 4))
    kinds = [shapes[0]] * num_same + [rng.choice(shapes[1:]) for _ in range(num - num_same)]
    paints = [colours[place % len(colours)] for place in range(num)]
    if rng.random() < 0.3:
        paints = [rng.choice(colours[:2]) for _ in range(num)]
    rng.shuffle(kinds)
    found = choose_shapes(rng, num, sides=_SIDES[num], kinds=kinds, colours=paints)
    rng.shuffle(found)
    return found


def _name(shape: SvgShape) -> str:
    return f"{shape.colour} {shape.shape}"


def _count_questions(rng: random.Random, shapes: Sequence[SvgShape]) -> list[_Question]:
    kinds, colours = [shape.shape for shape in shapes], [shape.colour for shape in shapes]
    listed = f"The code draws {_join([_name(shape) for shape in shapes])}."
    named = kinds if rng.random() < 0.75 else SVG_SHAPES
    by_shape = rng.choice([shape for shape in named if _SPECIAL_CASES.get(shape) not in kinds])
    by_colour = rng.choice(colours) if rng.random() < 0.8 else rng.choice(SVG_COLOURS)
    asked = (
        (rng.choice(("shapes", "objects")), len(shapes)),
        (plural(by_shape), kinds.count(by_shape)),
        (f"{by_colour} {rng.choice(('shapes', 'objects'))}", colours.count(by_colour)),
    )
    return [
        _Question(
            "count",
            COUNT_WORDINGS,
            {"things": things},
            str(count),
            [str(other) for other in _near(rng, count)],
            f"{listed} {things.capitalize()}: {count}.",
        )
        for things, count in asked
    ]


def _near(rng: random.Random, count: int) -> list[int]:
    return rng.sample([other for other in range(6) if other != count], 3)


def _join(names: Sequence[str]) -> str:
    named = [with_article(name) for name in names]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def _name_questions(rng: random.Random, shapes: Sequence[SvgShape]) -> list[_Question]:
    kinds, colours = [shape.shape for shape in shapes], [shape.colour for shape in shapes]
    questions = []
    for shape in shapes:
        seen = f"The code draws {_join([_name(shape)])}."
        if kinds.count(shape.shape) == 1:
            others = _others(rng, shape.colour, colours, SVG_COLOURS)
            parts = {"name": shape.shape}
            questions.append(
                _Question("colour", COLOUR_WORDINGS, parts, shape.colour, others, seen)
            )
        if colours.count(shape.colour) == 1:
            others = _others(rng, shape.shape, kinds, SVG_SHAPES)
            parts = {"name": shape.colour}
            questions.append(_Question("shape", SHAPE_WORDINGS, parts, shape.shape, others, seen))
    return questions


def _others(
    rng: random.Random, answer: str, present: Sequence[str], known: Sequence[str]
) -> list[str]:
    """Wrong choices: first what else the picture has, then anything."""
    near = sorted(set(present) - {answer})
    far = sorted(set(known) - {answer, *near})
    return [*rng.sample(near, len(near)), *rng.sample(far, len(far))]


def _where_questions(rng: random.Random, shapes: Sequence[SvgShape]) -> list[_Question]:
    names = [_name(shape) for shape in shapes]
    middle = 50
    questions = []
    for shape in shapes:
        x, y = shape.centre
        if names.count(_name(shape)) > 1:
            continue
        parts = {"name": _name(shape)}
        seen = f"The middle of the {_name(shape)} is at {x:g},{y:g}."
        across, down = "left" if x < middle else "right", "top" if y < middle else "bottom"
        is_across, is_down = abs(x - middle) >= _CLEAR, abs(y - middle) >= _CLEAR
        if is_across and is_down:
            quarter = f"{down} {across}"
            others = rng.sample([other for other in QUARTERS if other != quarter], 3)
            questions.append(_Question("where", QUARTER_WORDINGS, parts, quarter, others, seen))
        elif is_across:
            questions.append(_Question("where", ACROSS_WORDINGS, parts, across, (), seen))
        elif is_down:
            questions.append(_Question("where", DOWN_WORDINGS, parts, down, (), seen))
        if is_across and is_down and rng.random() < 0.45:
            asked, answer = rng.choice(((ACROSS_WORDINGS, across), (DOWN_WORDINGS, down)))
            questions[-1] = _Question("where", asked, parts, answer, (), seen)
    return questions


def _ask(chance: Chance, code: str, question: _Question) -> Turn:
    rng = chance.rng
    answer, reasoning = question.answer, question.reasoning
    inner = chance.turn(question.asked, answer, question.kind, parts=question.parts)
    asked = inner.question
    if len(question.choices) >= 3 and rng.random() < CHOICE_SHARE:
        choices = [answer, *question.choices[:3]]
        rng.shuffle(choices)
        marker = rng.choice(_MARKERS)
        lines = [
            marker.format(letter=letter, choice=choice)
            for letter, choice in zip(_LETTERS, choices, strict=True)
        ]
        asked += "\n" + "\n".join(lines) + rng.choice(_REQUESTS)
        letter = _LETTERS[choices.index(answer)]
        answer, reasoning = letter, f"{reasoning} That is {letter}."
    outer = chance.turn(
        FRAMES,
        answer,
        question.kind,
        parts={"code": code, "question": asked},
        reasoning=reasoning,
    )
    return replace(outer, is_unseen=outer.is_unseen or inner.is_unseen)


class SvgQuestions:
    """Code of one to four shapes and questions about it; the answer is a word or a letter."""

    name = "svg code"

    def draw(self, chance: Chance) -> Drawing:
        """Write code; a higher level has more shapes."""
        rng = chance.rng
        shapes = _choose(chance)
        code = write_svg(shapes)
        groups = [
            found
            for make in (_count_questions, _name_questions, _where_questions)
            if (found := make(rng, shapes))
        ]
        chosen = [rng.choice(group) for group in rng.sample(groups, min(2, len(groups)))]
        turns = tuple(_ask(chance, code, question) for question in chosen)
        return Drawing(self.name, (), turns, unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected word, number or letter.

        Args:
            turn: what was asked.
            answer: alone, after ``Answer:`` or, of a choice, with its text behind the letter.
        """
        if turn.answer in _LETTERS:
            return {"right": float(_extract_letter(answer) == turn.answer)}
        return score_short(turn, answer[:200].rpartition("Answer:")[2])


_STATED = re.compile(r"answer\s*:\s*\**\(?([A-D])\b", re.IGNORECASE)
_ALONE = re.compile(r"\s*\(?([A-D])(?:[).:,\s]|\Z)")


def _extract_letter(answer: str) -> str | None:
    answer = answer[:2000]
    found = _STATED.search(answer) or _ALONE.match(answer)
    return found[1].upper() if found else None
