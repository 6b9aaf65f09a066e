"""Naming the colour and the shape of one to three objects.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.scene`. No counterpart in the paper.
"""

from __future__ import annotations

import random

from internvl35.data.synthetic.scene import (
    COLOURS,
    SHAPES,
    Box,
    Drawing,
    Thing,
    Turn,
    choose_canvas,
    choose_tile_canvas,
    draw_things,
    is_hard,
    mark_things,
    place_boxes,
)
from internvl35.scoring import exact_match

COLOUR_WORDINGS = (
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

SHAPE_WORDINGS = (
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

WHOLE_WORDINGS = (
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


def _ask(rng: random.Random, things: list[Thing]) -> list[Turn]:
    turns: list[Turn] = []
    for thing in things:
        noun = rng.choice(_NOUNS)
        is_only = len(things) == 1 and rng.random() < 0.5
        known_shape = noun if is_only else thing.shape
        # "What shape is the red shape?" would be odd.
        known_colour = noun if is_only else f"{thing.colour} {rng.choice(('thing', 'object'))}"
        turns.append(Turn(rng.choice(COLOUR_WORDINGS).format(name=known_shape), thing.colour))
        turns.append(Turn(rng.choice(SHAPE_WORDINGS).format(name=known_colour), thing.shape))
    if len(things) == 1:
        answer = _with_article(things[0].colour, things[0].shape)
        turns.append(Turn(rng.choice(WHOLE_WORDINGS), answer))
    rng.shuffle(turns)
    return turns


class Shapes:
    """One to three objects, no two alike in colour or shape; the answer names one or both."""

    name = "shapes"

    def draw(self, rng: random.Random, level: float) -> Drawing:
        """Draw the objects; a higher level has more and smaller ones."""
        num = rng.choice((1, 1, 2, 3)) if is_hard(rng, level) else 1
        canvas = choose_canvas(rng, level)
        boxes: list[Box] | None = None
        while boxes is None:
            smallest = (15 if is_hard(rng, level) else 36) * max(canvas.shrink)
            largest = max(smallest, 0.6 * min(canvas.width, canvas.height))
            boxes = place_boxes(rng, canvas, num, (smallest, largest))
            if boxes is None:
                canvas = choose_tile_canvas(rng)
        colours, shapes = rng.sample(list(COLOURS), num), rng.sample(SHAPES, num)
        things = [Thing(*parts) for parts in zip(colours, shapes, boxes, strict=True)]
        turns = _ask(rng, things)[: rng.randint(1, 3)]
        image = draw_things(rng, canvas, things, level)
        return Drawing(self.name, image, tuple(turns), mark_things(things))

    def is_right(self, expected: str, answer: str) -> bool:
        """Whether the answer is the expected name; case and articles do not count."""
        return exact_match(expected, answer)
