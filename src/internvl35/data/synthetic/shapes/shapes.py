"""Naming the colour, the shape and the size of one to four objects, and saying what is there.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.shapes.things`. No counterpart in the
paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import (
    Canvas,
    choose_canvas,
    choose_single_canvas,
    place_boxes,
    place_sizes,
)
from internvl35.data.synthetic.colours import Colour, choose_background, colours_on
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.naming import with_article
from internvl35.data.synthetic.shapes.things import (
    Thing,
    choose_filling,
    draw_things,
    is_larger,
    mark_things,
)

COLOUR_WORDINGS = wordings(
    "What colour is the {name}?",
    "What color is the {name}?",
    "Which colour does the {name} have?",
    "Which color is the {name}?",
    "Name the colour of the {name}.",
    "Tell me the color of the {name}.",
    "The {name} has which colour?",
    "What colour has the {name}?",
    "What is the color of the {name}?",
    "Say the colour of the {name}.",
    "In which colour is the {name} drawn?",
    "What color does the {name} have?",
    "Please name the color of the {name}.",
)
"""Ways to ask for a colour; ``{name}`` is a shape, or any word for the only object."""

SHAPE_WORDINGS = wordings(
    "What shape is the {name}?",
    "Which shape does the {name} have?",
    "Name the shape of the {name}.",
    "Tell me the shape of the {name}.",
    "What is the shape of the {name}?",
    "What kind of shape is the {name}?",
    "Which shape is the {name}?",
    "Say the shape of the {name}.",
    "What form does the {name} have?",
    "What shape does the {name} have?",
    "Please name the shape of the {name}.",
    "The {name} has which shape?",
)
"""Ways to ask for a shape; ``{name}`` is "red thing" or the like."""

WHOLE_WORDINGS = wordings(
    "What is in the picture?",
    "What is in this image?",
    "What do you see?",
    "What can be seen in the picture?",
    "Name the object and its colour.",
    "What does the picture show?",
    "What is shown here?",
    "Describe the picture.",
    "Describe the image in a few words.",
    "What is this?",
    "Name the object and its color.",
    "What does this image show?",
)
"""Ways to ask for colour and shape of the only object."""

LARGEST_WORDINGS = wordings(
    "Which object is the largest?",
    "What is the largest object?",
    "Which shape is the biggest?",
    "What is the biggest thing in the picture?",
    "Name the largest object.",
    "Which of the objects is the largest?",
    "Which thing is the biggest?",
    "Name the biggest shape in the image.",
    "Tell me which object is the largest.",
    "Which object is larger than all others?",
    "Which is the biggest object here?",
    "What is the largest shape in this image?",
)
"""Ways to ask for the largest of several objects."""

SMALLEST_WORDINGS = wordings(
    "Which object is the smallest?",
    "What is the smallest object?",
    "Which shape is the smallest?",
    "What is the smallest thing in the picture?",
    "Name the smallest object.",
    "Which of the objects is the smallest?",
    "Which thing is the smallest?",
    "Name the smallest shape in the image.",
    "Tell me which object is the smallest.",
    "Which object is smaller than all others?",
    "Which is the smallest object here?",
    "What is the smallest shape in this image?",
)
"""Ways to ask for the smallest of several objects."""

COMPARE_WORDINGS = wordings(
    "Is the {one} {larger} than the {two}?",
    "Is the {one} {larger} than the {two}? Answer yes or no.",
    "Would you say that the {one} is {larger} than the {two}?",
    "Compare the two: is the {one} {larger} than the {two}?",
    "Is it true that the {one} is {larger} than the {two}?",
    "Do you think that the {one} is {larger} than the {two}?",
    "The {one} is {larger} than the {two}. True? Answer yes or no.",
    "Look at the sizes. Is the {one} {larger} than the {two}?",
    "Yes or no: the {one} is {larger} than the {two}.",
    "Can you see whether the {one} is {larger} than the {two}? Answer yes or no.",
    "Yes or no: is the {one} {larger} than the {two}?",
    "In this picture, is the {one} {larger} than the {two}?",
)
"""Ways to compare two sizes; ``{larger}`` is "larger", "bigger" or "smaller"."""

PRESENT_WORDINGS = wordings(
    "Is there {name} in the picture?",
    "Is there {name} in the image?",
    "Can you see {name}?",
    "Do you see {name} in the picture?",
    "Does the picture show {name}?",
    "Is {name} shown here?",
    "Is there {name}? Answer yes or no.",
    "Does this image contain {name}?",
    "Yes or no: there is {name}.",
    "Is {name} among the objects?",
    "Is there {name} in the image? Please answer yes or no.",
    "Does the image have {name} in it?",
)
"""Ways to ask whether something is there; ``{name}`` begins with an article."""

SIZE_RATIO = 1.4
"""Least ratio of two widths, and of two areas, that are compared."""

MAX_TURNS = 5
"""Most questions about a picture."""

_NOUNS = ("object", "thing", "shape", "figure")
_LADDER = (1.5, 1.9)  # each thing's side over that of the next smaller one


def _ask_names(chance: Chance, things: list[Thing]) -> list[Turn]:
    rng = chance.rng
    turns: list[Turn] = []
    for thing in things:
        noun = rng.choice(_NOUNS)
        is_only = len(things) == 1 and rng.random() < 0.5
        known_shape = noun if is_only else thing.shape
        # "What shape is the red shape?" would be odd.
        known_colour = noun if is_only else f"{thing.colour} {rng.choice(('thing', 'object'))}"
        if is_only and noun == "shape":
            known_colour = "object"
        turns.append(
            chance.turn(COLOUR_WORDINGS, thing.colour, "colour", parts={"name": known_shape})
        )
        turns.append(
            chance.turn(SHAPE_WORDINGS, thing.shape, "shape", parts={"name": known_colour})
        )
    if len(things) == 1:
        turns.append(chance.turn(WHOLE_WORDINGS, with_article(things[0].name), "both"))
    return turns


def _ask_sizes(chance: Chance, things: list[Thing]) -> list[Turn]:
    rng = chance.rng
    turns: list[Turn] = []
    for thing in things:
        others = [other for other in things if other is not thing]
        if all(is_larger(thing, other, SIZE_RATIO) for other in others):
            turns.append(chance.turn(LARGEST_WORDINGS, f"the {thing.name}", "size"))
        if all(is_larger(other, thing, SIZE_RATIO) for other in others):
            turns.append(chance.turn(SMALLEST_WORDINGS, f"the {thing.name}", "size"))
    pairs = [
        (large, small)
        for large in things
        for small in things
        if is_larger(large, small, SIZE_RATIO)
    ]
    for large, small in rng.sample(pairs, min(2, len(pairs))):
        is_true, is_turned = rng.random() < 0.5, rng.random() < 0.5
        one, two = (small, large) if is_turned else (large, small)
        word = rng.choice(("larger", "bigger")) if is_true != is_turned else "smaller"
        parts = {"one": one.name, "two": two.name, "larger": word}
        turns.append(
            chance.turn(COMPARE_WORDINGS, "yes" if is_true else "no", "compare", parts=parts)
        )
    return turns


def _ask_presence(chance: Chance, things: list[Thing], known: list[str]) -> Turn:
    rng = chance.rng
    thing = rng.choice(things)
    colour, shape = thing.colour, thing.shape
    if rng.random() < 0.5:
        return chance.turn(
            PRESENT_WORDINGS, "yes", "there", parts={"name": with_article(thing.name)}
        )
    # One of the two is there, or neither would have to be looked for together.
    # A square is a rectangle, too.
    if rng.random() < 0.5:
        alike = (shape, "square" if shape == "rectangle" else shape)
        taken = {other.colour for other in things if other.shape in alike}
        colour = rng.choice([name for name in known if name not in taken])
    else:
        left_out = {shape, "rectangle" if shape == "square" else shape}
        shape = rng.choice([name for name in SHAPES if name not in left_out])
    name = with_article(f"{colour} {shape}")
    return chance.turn(PRESENT_WORDINGS, "no", "there", parts={"name": name})


def _place(chance: Chance, num: int) -> tuple[Canvas, list[Box]]:
    """Places of things whose sizes differ by chance, or of a ladder of sizes."""
    rng = chance.rng
    has_ladder = num > 1 and rng.random() < 0.6
    canvas = choose_single_canvas(chance) if has_ladder else choose_canvas(chance)
    while True:
        least = (19 if chance.is_hard() else 48) * max(canvas.shrink)
        most = max(least, 0.6 * min(canvas.width, canvas.height))
        if has_ladder:
            sides = [rng.uniform(least, 1.2 * least)]
            while len(sides) < num:
                sides.append(sides[-1] * rng.uniform(*_LADDER))
            stretch = rng.uniform(1.0, max(1.0, most / sides[-1]))
            sizes = [(round(side * stretch), round(side * stretch)) for side in sides]
            rng.shuffle(sizes)
            boxes = place_sizes(rng, canvas, sizes)
        else:
            boxes = place_boxes(rng, canvas, num, (least, most))
        if boxes is not None:
            return canvas, boxes
        canvas = choose_single_canvas(chance)


def _make_things(
    chance: Chance, canvas: Canvas, boxes: list[Box], background: Colour
) -> list[Thing]:
    rng = chance.rng
    colours = rng.sample(colours_on(background), len(boxes))
    shapes = rng.sample(SHAPES, len(boxes))
    is_filled = choose_filling(chance, boxes, max(canvas.shrink))
    return [
        Thing(*parts, is_filled=is_filled) for parts in zip(colours, shapes, boxes, strict=True)
    ]


class Shapes:
    """One to four objects, no two alike in colour or shape."""

    name = "shapes"

    def draw(self, chance: Chance) -> Drawing:
        """Draw the objects; a higher level has more and smaller ones."""
        rng = chance.rng
        num = rng.choice((1, 2, 2, 3, 3, 4)) if chance.is_hard() else rng.choice((1, 2))
        canvas, boxes = _place(chance, num)
        background = choose_background(chance)
        things = _make_things(chance, canvas, boxes, background)
        turns = [
            *_ask_names(chance, things),
            *(_ask_sizes(chance, things) if num > 1 else ()),
            _ask_presence(chance, things, colours_on(background)),
        ]
        turns = rng.sample(turns, min(MAX_TURNS, len(turns)))
        image = draw_things(chance, canvas, things, background)
        return Drawing(
            self.name, (image,), tuple(turns), (mark_things(things),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected name; case and articles do not count."""
        return score_short(turn, answer)
