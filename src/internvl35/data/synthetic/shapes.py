"""Naming the colour and the shape of one to three objects.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.scene`. No counterpart in the paper.
"""

from __future__ import annotations

from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.scene import (
    COLOURS,
    Thing,
    choose_canvas,
    choose_tile_canvas,
    draw_things,
    mark_things,
    place_boxes,
)
from internvl35.scoring import exact_match

COLOUR_WORDINGS = wordings(
    "What colour is the {name}?",
    "What color is the {name}?",
    "Which colour does the {name} have?",
    "Which color is the {name}?",
    "Name the colour of the {name}.",
    "Tell me the color of the {name}.",
    "The {name} has which colour?",
    "What is the colour of the {name}?",
    "What is the color of the {name}?",
    "Say the colour of the {name}.",
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
)
"""Ways to ask for a shape; ``{name}`` is "red thing" or the like."""

WHOLE_WORDINGS = wordings(
    "What is in the picture?",
    "What is in this image?",
    "What do you see?",
    "What can you see in the picture?",
    "Name the object and its colour.",
    "What does the picture show?",
    "What is shown here?",
    "Describe the picture.",
    "Describe the image in a few words.",
    "What is this?",
)
"""Ways to ask for colour and shape of the only object."""

_NOUNS = ("object", "thing", "shape", "figure")


def _with_article(colour: str, shape: str) -> str:
    return f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}"


def _ask(chance: Chance, things: list[Thing]) -> list[Turn]:
    rng = chance.rng
    turns: list[Turn] = []
    for thing in things:
        noun = rng.choice(_NOUNS)
        is_only = len(things) == 1 and rng.random() < 0.5
        known_shape = noun if is_only else thing.shape
        # "What shape is the red shape?" would be odd.
        known_colour = noun if is_only else f"{thing.colour} {rng.choice(('thing', 'object'))}"
        turns.append(
            chance.turn(COLOUR_WORDINGS, thing.colour, "colour", parts={"name": known_shape})
        )
        turns.append(
            chance.turn(SHAPE_WORDINGS, thing.shape, "shape", parts={"name": known_colour})
        )
    if len(things) == 1:
        answer = _with_article(things[0].colour, things[0].shape)
        turns.append(chance.turn(WHOLE_WORDINGS, answer, "both"))
    rng.shuffle(turns)
    return turns


class Shapes:
    """One to three objects, no two alike in colour or shape; the answer names one or both."""

    name = "shapes"

    def draw(self, chance: Chance) -> Drawing:
        """Draw the objects; a higher level has more and smaller ones."""
        rng = chance.rng
        num = rng.choice((1, 1, 2, 3)) if chance.is_hard() else 1
        canvas = choose_canvas(chance)
        boxes: list[Box] | None = None
        while boxes is None:
            smallest = (15 if chance.is_hard() else 36) * max(canvas.shrink)
            largest = max(smallest, 0.6 * min(canvas.width, canvas.height))
            boxes = place_boxes(rng, canvas, num, (smallest, largest))
            if boxes is None:
                canvas = choose_tile_canvas(rng)
        colours, shapes = rng.sample(list(COLOURS), num), rng.sample(SHAPES, num)
        things = [Thing(*parts) for parts in zip(colours, shapes, boxes, strict=True)]
        turns = _ask(chance, things)[: rng.randint(1, 3)]
        image = draw_things(chance, canvas, things)
        return Drawing(
            self.name, (image,), tuple(turns), (mark_things(things),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected name; case and articles do not count."""
        return {"right": float(exact_match(turn.answer, answer))}
