"""Counting coloured shapes: all of them, those of a colour, of a shape, or of both.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.shapes.things`. No counterpart in the
paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import Canvas, choose_canvas, choose_tile_canvas, place_boxes
from internvl35.data.synthetic.colours import choose_background, colours_on
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.naming import plural
from internvl35.data.synthetic.shapes.things import Thing, choose_filling, draw_things, mark_things

WORDINGS = wordings(
    "How many {things} are there?",
    "How many {things} can you see?",
    "How many {things} are in the picture?",
    "How many {things} does the picture show?",
    "How many {things} do you count?",
    "How many {things}?",
    "Count the {things}.",
    "Please count the {things}.",
    "Count the {things} in this image.",
    "What is the number of {things}?",
    "Give the number of {things}.",
    "Please say how many {things} there are.",
    "In this picture, how many {things} are there?",
)
"""Ways to ask for a number; ``{things}`` is a plural."""

MAX_THINGS = 9
"""Most shapes in a picture."""

MAX_TURNS = 5
"""Most questions about a picture."""

ZERO_SHARE = 0.05
"""How many questions ask for what is not there."""

_NUM_WEIGHTS = (8, 12, 15, 17, 17, 15, 10, 8, 6)  # of 1 to MAX_THINGS shapes
_LEAST_SIDES = (26, 21, 17)  # pixels of a thumbnail; the last for many shapes in a long picture
_NOUNS = ("shapes", "shapes", "objects", "things")


def _make_things(chance: Chance, canvas: Canvas, boxes: list[Box], known: list[str]) -> list[Thing]:
    # Few colours and shapes a picture, or the number of red circles would nearly always be 0 or 1.
    rng = chance.rng
    colours = rng.sample(known, rng.choice((1, 2, 2, 3, 3)))
    # A square is a rectangle, too, so no picture has both.
    left_out = rng.choice(("square", "rectangle"))
    names = [name for name in SHAPES if name != left_out]
    shapes = rng.sample(names, rng.choice((1, 2, 2, 3)))
    is_filled = choose_filling(chance, boxes, max(canvas.shrink))
    return [Thing(rng.choice(colours), rng.choice(shapes), box, is_filled) for box in boxes]


def _place(chance: Chance, num: int) -> tuple[Canvas, list[Box]]:
    canvas = choose_canvas(chance)
    while True:
        for least in _LEAST_SIDES:
            smallest = least * max(canvas.shrink)
            share = 0.30 if num <= 5 else 0.24
            largest = max(smallest, share * min(canvas.width, canvas.height))
            boxes = place_boxes(chance.rng, canvas, num, (smallest, largest))
            if boxes is not None:
                return canvas, boxes
        canvas = choose_tile_canvas(chance.rng)


def _ask(chance: Chance, things: list[Thing]) -> list[Turn]:
    # A colour is asked for as often as things have it, or nearly every answer would be 1 or 2.
    rng = chance.rng
    noun = rng.choice(_NOUNS)
    asked = {noun: len(things)}
    for thing in rng.sample(things, min(2, len(things))):
        same_colour = [other.shape for other in things if other.colour == thing.colour]
        same_shape = sum(other.shape == thing.shape for other in things)
        asked[f"{thing.colour} {noun}"] = len(same_colour)
        asked[plural(thing.shape)] = same_shape
        asked[f"{thing.colour} {plural(thing.shape)}"] = same_colour.count(thing.shape)
    turns = [_turn(chance, *item) for item in asked.items()]
    return rng.sample(turns, min(len(turns), MAX_TURNS))


def _ask_for_none(chance: Chance, things: list[Thing], known: list[str]) -> Turn:
    rng = chance.rng
    colours = sorted({thing.colour for thing in things})
    shapes = sorted({thing.shape for thing in things})
    pairs = {(thing.colour, thing.shape) for thing in things}
    apart = [(one, two) for one in colours for two in shapes if (one, two) not in pairs]
    colour = rng.choice([name for name in known if name not in colours])
    others = [name for name in SHAPES if name not in shapes]
    if "square" in shapes:
        others.remove("rectangle")
    shape = rng.choice(others)
    if apart and rng.random() < 0.5:
        colour, shape = rng.choice(apart)
        return _turn(chance, f"{colour} {plural(shape)}", 0)
    noun = rng.choice(_NOUNS)
    whole = f"{colour} {plural(shape)}"
    return _turn(chance, rng.choice((f"{colour} {noun}", plural(shape), whole)), 0)


def _turn(chance: Chance, things: str, count: int) -> Turn:
    return chance.turn(WORDINGS, str(count), "count", parts={"things": things})


class Counting:
    """One to nine shapes; the answer is a number in digits."""

    name = "counting"

    def draw(self, chance: Chance) -> Drawing:
        """Draw shapes that do not overlap; a higher level has more of them."""
        rng = chance.rng
        if chance.is_hard():
            num = rng.choices(range(1, MAX_THINGS + 1), _NUM_WEIGHTS)[0]
        else:
            num = rng.randint(1, 3)
        canvas, boxes = _place(chance, num)
        background = choose_background(chance)
        known = colours_on(background)
        things = _make_things(chance, canvas, boxes, known)
        turns = _ask(chance, things)
        if rng.random() < ZERO_SHARE * len(turns):
            turns[rng.randrange(len(turns))] = _ask_for_none(chance, things, known)
        image = draw_things(chance, canvas, things, background)
        return Drawing(
            self.name, (image,), tuple(turns), (mark_things(things),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer states the expected number and no other."""
        return score_short(turn, answer)
