"""Counting coloured shapes: all of them, those of a colour, of a shape, or of both.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.scene`. No counterpart in the paper.
"""

from __future__ import annotations

import random

from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.scene import (
    COLOURS,
    Canvas,
    Thing,
    choose_canvas,
    choose_tile_canvas,
    draw_things,
    mark_things,
    place_boxes,
)
from internvl35.scoring import extract_number

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
    "Tell me how many {things} there are.",
    "In this picture, how many {things} are there?",
)
"""Ways to ask for a number; ``{things}`` is a plural."""

MAX_THINGS = 5
"""Most shapes in a picture."""

_NUM_WEIGHTS = (8, 12, 20, 28, 32)  # of 1 to MAX_THINGS shapes; also makes small subsets rarer
_LEAST_SIDES = (16, 13, 10)  # pixels of a thumbnail; the last for many shapes in a long picture
_NOUNS = ("shapes", "shapes", "objects", "things")


def _make_things(rng: random.Random, boxes: list[Box]) -> list[Thing]:
    # Few colours and shapes a picture, or the number of red circles would nearly always be 0 or 1.
    colours = rng.sample(list(COLOURS), rng.choice((1, 2, 2, 3, 3)))
    shapes = rng.sample(SHAPES, rng.choice((1, 2, 2, 3)))
    return [Thing(rng.choice(colours), rng.choice(shapes), box) for box in boxes]


def _place(chance: Chance, num: int) -> tuple[Canvas, list[Box]]:
    canvas = choose_canvas(chance)
    while True:
        for least in _LEAST_SIDES:
            smallest = least * max(canvas.shrink)
            largest = max(smallest, 0.30 * min(canvas.width, canvas.height))
            boxes = place_boxes(chance.rng, canvas, num, (smallest, largest))
            if boxes is not None:
                return canvas, boxes
        canvas = choose_tile_canvas(chance.rng)


def _ask(chance: Chance, things: list[Thing], is_zero: bool) -> list[Turn]:
    # A colour is asked for as often as things have it, or nearly every answer would be 1 or 2.
    rng = chance.rng
    colours = [thing.colour for thing in things]
    shapes = [thing.shape for thing in things]
    if is_zero:
        colours = [colour for colour in COLOURS if colour not in colours]
        shapes = [shape for shape in SHAPES if shape not in shapes]
    noun = rng.choice(_NOUNS)
    colour, shape = rng.choice(colours), rng.choice(shapes)
    by_colour = sum(thing.colour == colour for thing in things)
    by_shape = sum(thing.shape == shape for thing in things)
    by_both = sum(thing.colour == colour and thing.shape == shape for thing in things)
    asked = [(f"{colour} {noun}", by_colour), (f"{shape}s", by_shape)]
    if not is_zero:
        asked.append((noun, len(things)))
    if by_both or is_zero:
        asked.append((f"{colour} {shape}s", by_both))
    rng.shuffle(asked)
    return [
        chance.turn(WORDINGS, str(count), "count", parts={"things": plural})
        for plural, count in asked
    ]


class Counting:
    """One to five shapes; the answer is a number in digits."""

    name = "counting"

    def draw(self, chance: Chance) -> Drawing:
        """Draw shapes that do not overlap; a higher level has more of them."""
        rng = chance.rng
        if chance.is_hard():
            num = rng.choices(range(1, MAX_THINGS + 1), _NUM_WEIGHTS)[0]
        else:
            num = rng.randint(1, 3)
        canvas, boxes = _place(chance, num)
        things = _make_things(rng, boxes)
        turns = _ask(chance, things, is_zero=False)[: rng.randint(1, 3)]
        if rng.random() < 0.06:
            turns[rng.randrange(len(turns))] = _ask(chance, things, is_zero=True)[0]
        image = draw_things(chance, canvas, things)
        return Drawing(
            self.name, (image,), tuple(turns), (mark_things(things),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer states the expected number and no other."""
        return {"right": float(extract_number(answer) == float(turn.answer))}
