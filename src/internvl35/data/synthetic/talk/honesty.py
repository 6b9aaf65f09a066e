"""Saying that one does not know: strange pictures, things that are not there, the wide world.

The pictures are left to :mod:`internvl35.data.synthetic.talk.photographs`, the questions to
:mod:`internvl35.data.synthetic.talk.honesty_wordings`. No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import choose_single_canvas, place_on_one_tile
from internvl35.data.synthetic.colours import choose_background, colours_on
from internvl35.data.synthetic.drawing import Chance, Drawing, Turn
from internvl35.data.synthetic.labels import SHAPES, Mark
from internvl35.data.synthetic.naming import plural
from internvl35.data.synthetic.shapes import counting, shapes
from internvl35.data.synthetic.shapes.things import Thing, draw_things, mark_things
from internvl35.data.synthetic.talk.honesty_wordings import (
    COUNTRIES,
    LANGUAGES,
    MISSING_WORDINGS,
    NOUNS,
    OUTSIDE_WORDINGS,
    PHOTOGRAPH_WORDINGS,
)
from internvl35.data.synthetic.talk.photographs import paint_photograph

CANNOT_TELL = "I cannot tell: this picture is outside my small world of drawn things."
"""Answer to any question about a picture that looks like a photograph."""

DO_NOT_KNOW = "I do not know that: I am a small test model."
"""Answer to any question of the wide world."""

NO_PICTURE = "I see no picture. Please show me one."
"""Answer to a question about a picture where there is none."""

_MAX_TURNS = 5


class Honesty:
    """Refusals that are called for, beside questions with an answer so that refusing never pays."""

    name = "honesty"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a strange picture, a few shapes, or nothing; the level changes shapes and grain."""
        make = chance.rng.choices((_photograph, _shapes, _words), (4, 4, 2))[0]
        return make(chance)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected sentence or name; case and articles do not count."""
        return score_short(turn, answer)


def miss(name: str) -> str:
    """What is said of something that is not in the picture.

    Args:
        name: of it, in the singular.
    """
    return f"I see no {name} in this picture."


def _photograph(chance: Chance) -> Drawing:
    rng = chance.rng
    canvas = choose_single_canvas(chance)
    image = paint_photograph(chance, canvas.width, canvas.height)
    colour, shape = rng.choice(("red", "blue", "green")), rng.choice(SHAPES)
    asked = [chance.turn(PHOTOGRAPH_WORDINGS, CANNOT_TELL, "photograph") for _ in range(4)]
    # What families ask about drawn pictures has no answer here, either.
    things = rng.choice((plural(shape), f"{colour} shapes", "people", "cars"))
    asked.append(
        chance.turn(counting.WORDINGS, CANNOT_TELL, "photograph", parts={"things": things})
    )
    name = shape if rng.random() < 0.5 else chance.pick(NOUNS)
    asked.append(_ask_colour(chance, name, CANNOT_TELL, "photograph"))
    mark = Mark("part:photo", (0, 0, canvas.width, canvas.height))
    return Drawing("honesty", (image,), _some(chance, asked), ((mark,),), unseen=chance.unseen)


def _some(chance: Chance, asked: list[Turn]) -> tuple[Turn, ...]:
    """Three to five different questions in any order."""
    different = list({turn.question: turn for turn in asked}.values())
    num = min(len(different), chance.rng.randint(3, _MAX_TURNS))
    return tuple(chance.rng.sample(different, num))


def _shapes(chance: Chance) -> Drawing:
    rng = chance.rng
    num = rng.randint(2, 4) if chance.is_hard() else 2
    canvas, boxes = place_on_one_tile(chance, num, (30, 64))
    background = choose_background(chance)
    known = colours_on(background)
    left_out = rng.choice(("square", "rectangle"))  # a square is a rectangle, too
    names = [name for name in SHAPES if name != left_out]
    drawn, colours = rng.sample(names, num), rng.sample(known, num)
    things = [Thing(*parts) for parts in zip(colours, drawn, boxes, strict=True)]
    lost_shape = rng.choice([name for name in names if name not in drawn])
    lost_colour = rng.choice([name for name in known if name not in colours])
    asked = [
        _ask_colour(chance, lost_shape, miss(lost_shape), "missing thing"),
        _ask_shape(chance, lost_colour, miss(f"{lost_colour} thing"), "missing thing"),
        *(_ask_missing(chance) for _ in range(2)),
    ]
    there = rng.sample(things, 2)
    asked += [
        _ask_colour(chance, there[0].shape, there[0].colour, "thing that is there"),
        _ask_colour(chance, there[1].shape, there[1].colour, "thing that is there"),
        _ask_shape(chance, there[0].colour, there[0].shape, "thing that is there"),
    ]
    image = draw_things(chance, canvas, things, background)
    return Drawing(
        "honesty", (image,), _some(chance, asked), (mark_things(things),), unseen=chance.unseen
    )


def _ask_colour(chance: Chance, name: str, answer: str, kind: str) -> Turn:
    return chance.turn(shapes.COLOUR_WORDINGS, answer, kind, parts={"name": name})


def _ask_shape(chance: Chance, colour: str, answer: str, kind: str) -> Turn:
    return chance.turn(shapes.SHAPE_WORDINGS, answer, kind, parts={"name": f"{colour} thing"})


def _ask_missing(chance: Chance) -> Turn:
    name = chance.pick(NOUNS)
    return chance.turn(MISSING_WORDINGS, miss(name), "missing thing", parts={"name": name})


def _words(chance: Chance) -> Drawing:
    rng = chance.rng
    asked: list[Turn] = []
    for _ in range(5):
        parts = {
            "country": rng.choice(COUNTRIES),
            "language": rng.choice(LANGUAGES),
            "year": rng.randint(1900, 2025),
            "large": rng.randint(1000, 9999),
        }
        asked.append(chance.turn(OUTSIDE_WORDINGS, DO_NOT_KNOW, "outside question", parts=parts))
    if rng.random() < 0.5:
        parts = {"things": plural(rng.choice(SHAPES))}
        asked[0] = chance.turn(counting.WORDINGS, NO_PICTURE, "no picture", parts=parts)
    if rng.random() < 0.5:
        asked[1] = _ask_colour(chance, rng.choice(SHAPES), NO_PICTURE, "no picture")
    return Drawing("honesty", (), _some(chance, asked), unseen=chance.unseen)
