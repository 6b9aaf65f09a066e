"""Where shapes stand: left and right, above and below, at the rim, in a corner, near each other.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.shapes.things`. No counterpart in the
paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import Canvas, choose_single_canvas, place_boxes
from internvl35.data.synthetic.choosing import Asking, ask_some
from internvl35.data.synthetic.colours import choose_background, colours_on
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.shapes.things import (
    Thing,
    choose_pairs,
    draw_things,
    mark_things,
    refer,
)

SIDE_WORDINGS = wordings(
    "Is the {one} to the left or to the right of the {two}?",
    "Is the {one} left or right of the {two}?",
    "On which side of the {two} is the {one}, left or right?",
    "Seen from the {two}, is the {one} on the left or on the right?",
    "Does the {one} stand to the left or to the right of the {two}?",
    "Left or right: where is the {one}, seen from the {two}?",
    "Which is it: is the {one} left or right of the {two}?",
    "Say whether the {one} is left or right of the {two}.",
    "Is the {one} on the left or on the right of the {two}?",
    "Look at the {one} and the {two}. Is the first one left or right of the second?",
    "To which side of the {two} is the {one}? Answer left or right.",
    "Where is the {one} compared to the {two}, left or right?",
)
"""Ways to ask on which side of another a thing is."""

HEIGHT_WORDINGS = wordings(
    "Is the {one} above or below the {two}?",
    "Is the {one} higher up than the {two} or lower down? Answer above or below.",
    "Does the {one} stand above or below the {two}?",
    "Above or below: where is the {one}, seen from the {two}?",
    "Tell me whether the {one} is above or below the {two}.",
    "Which is it: is the {one} above or below the {two}?",
    "Where is the {one} compared to the {two}, above or below?",
    "Seen from the {two}, is the {one} above or below?",
    "Is the position of the {one} above or below the {two}?",
    "Look at the {one} and the {two}. Is the first one above or below the second?",
    "Where does the {one} stand, above or below the {two}?",
    "Say above or below: the {one} is where, compared to the {two}?",
)
"""Ways to ask whether a thing is above or below another."""

TRUE_WORDINGS = wordings(
    "Is the {one} {where} the {two}?",
    "Is the {one} {where} the {two}? Answer yes or no.",
    "Is it true that the {one} is {where} the {two}?",
    "Does the {one} stand {where} the {two}?",
    "Would you say that the {one} is {where} the {two}?",
    "Yes or no: the {one} is {where} the {two}.",
    "Can you see the {one} {where} the {two}?",
    "In this picture, is the {one} {where} the {two}?",
    "The {one} is {where} the {two}. True? Answer yes or no.",
    "Do you see the {one} {where} the {two}?",
    "Does the picture show the {one} {where} the {two}?",
    "Please answer yes or no: is the {one} {where} the {two}?",
)
"""Ways to ask whether a thing is where it is said to be."""

WHAT_WORDINGS = wordings(
    "What is {where} the {two}?",
    "Which object is {where} the {two}?",
    "What stands {where} the {two}?",
    "Which shape is {where} the {two}?",
    "What can you see {where} the {two}?",
    "Name the object {where} the {two}.",
    "Which thing is {where} the {two}?",
    "Tell me what is {where} the {two}.",
    "What do you see {where} the {two}?",
    "What is there {where} the {two}?",
    "Name the thing that is {where} the {two}.",
    "Which object stands {where} the {two}?",
)
"""Ways to ask for the only thing on one side of another."""

OUTER_WORDINGS = wordings(
    "Which object is {most}?",
    "What is {most}?",
    "Which shape is {most}?",
    "Which thing is {most} in the picture?",
    "Name the object that is {most}.",
    "Which of the objects is {most}?",
    "Tell me which object is {most}.",
    "What stands {most}?",
    "In this image, which object is {most}?",
    "Which object do you see {most}?",
    "Name the shape that is {most}.",
    "Of all objects, which one is {most}?",
)
"""Ways to ask for what is nearest to a side of the picture."""

PLACE_WORDINGS = wordings(
    "Where is the {one}: top left, top right, bottom left, bottom right or centre?",
    "Where is the {one}?",
    "In which part of the picture is the {one}?",
    "In which corner is the {one}, or is it in the centre?",
    "Where in the picture is the {one}?",
    "Tell me where the {one} is.",
    "Is the {one} top left, top right, bottom left, bottom right or in the center?",
    "Where in the image do you see the {one}?",
    "Name the place of the {one} in the picture.",
    "What is the position of the {one}?",
    "Where can the {one} be found?",
    "Where is the {one}: top left, top right, bottom left, bottom right or center?",
)
"""Ways to ask for the part of the picture where a thing is."""

NEAREST_WORDINGS = wordings(
    "Which object is nearest to the {two}?",
    "What is nearest to the {two}?",
    "Which object is closest to the {two}?",
    "What is closest to the {two}?",
    "Which shape is nearest to the {two}?",
    "Name the object nearest to the {two}.",
    "Which thing is the nearest neighbour of the {two}?",
    "What stands closest to the {two}?",
    "Tell me what is nearest to the {two}.",
    "Which of the other objects is closest to the {two}?",
    "Name the thing closest to the {two}.",
    "Which object has the shortest distance to the {two}?",
)
"""Ways to ask for a thing's nearest neighbour."""

CLEAR_GAP = 0.03
"""Least gap between two things of which one is said to be left of, or above, the other; a share of
the picture's width or height."""

CLEAR_LEAD = 0.1
"""How much further out than all others the outermost thing is, as a share of width or height."""

CLEAR_RATIO = 1.4
"""How many times as far as the nearest neighbour every other one is."""

MAX_TURNS = 5
"""Most questions about a picture."""

_WHERE = {
    "left": ("left of", "to the left of", "on the left of"),
    "right": ("right of", "to the right of", "on the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "under", "lower than"),
}
_WHAT_WHERE = {**_WHERE, "above": ("above",), "below": ("below", "under")}
_OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}
_MOST = {
    "left": ("furthest left", "furthest to the left", "nearest to the left edge"),
    "right": ("furthest right", "furthest to the right", "nearest to the right edge"),
    "above": ("highest", "at the very top", "nearest to the top edge"),
    "below": ("lowest", "at the very bottom", "nearest to the bottom edge"),
}
_ZONES = {
    "top left": (0.2, 0.2), "top right": (0.8, 0.2), "bottom left": (0.2, 0.8),
    "bottom right": (0.8, 0.8), "centre": (0.5, 0.5),
}  # fmt: skip


class _Sight:
    """What is true of the places of things, by clear margins only."""

    def __init__(self, canvas: Canvas, things: list[Thing]) -> None:
        self.things = things
        self._size = (canvas.width, canvas.height)

    def ahead(self, side: str, thing: Thing) -> tuple[float, float, float]:
        """How far out a thing reaches to a side: inner edge, middle, outer edge, as shares."""
        axis = 0 if side in ("left", "right") else 1
        low, high = (thing.box[axis + end] / self._size[axis] for end in (0, 2))
        if side in ("left", "above"):
            low, high = -high, -low
        return low, (low + high) / 2, high

    def is_beyond(self, side: str, one: Thing, two: Thing) -> bool:
        """Whether one is clearly left of two, or on whichever side."""
        return self.ahead(side, one)[0] >= self.ahead(side, two)[2] + CLEAR_GAP

    def only_beyond(self, side: str, two: Thing) -> Thing | None:
        """What alone is on a side of a thing."""
        middle = self.ahead(side, two)[1]
        beyond = [
            thing
            for thing in self.things
            if thing is not two and self.ahead(side, thing)[1] > middle
        ]
        if len(beyond) == 1 and self.is_beyond(side, beyond[0], two):
            return beyond[0]
        return None

    def outermost(self, side: str) -> Thing | None:
        """What is clearly furthest out."""
        first, second = sorted(self.things, key=lambda thing: -self.ahead(side, thing)[1])[:2]
        _, middle, edge = self.ahead(side, first)
        edges = max(self.ahead(side, thing)[2] for thing in self.things if thing is not first)
        is_clear = middle >= self.ahead(side, second)[1] + CLEAR_LEAD and edge > edges
        return first if is_clear else None

    def zone(self, thing: Thing) -> str | None:
        """In which corner a thing clearly is, or in the centre."""
        x, y = (part / size for part, size in zip(thing.middle, self._size, strict=True))
        for name, (middle_x, middle_y) in _ZONES.items():
            reach = 0.07 if name == "centre" else 0.11
            if abs(x - middle_x) <= reach and abs(y - middle_y) <= reach:
                return name
        return None

    def nearest(self, two: Thing) -> Thing | None:
        """The clearly nearest neighbour, in the picture and also when it is pressed into a tile."""
        found: set[str] = set()
        for unit in (self._size, (1, 1)):
            others = [thing for thing in self.things if thing is not two]
            others.sort(key=lambda thing: _distance(thing, two, unit))
            first, second = (_distance(thing, two, unit) for thing in others[:2])
            spare = (others[1].side - others[0].side) / 2 / min(unit)
            if second < CLEAR_RATIO * first or second < first + 1.5 * spare:
                return None
            found.add(others[0].name)
        return others[0] if len(found) == 1 else None


def _distance(one: Thing, two: Thing, unit: tuple[float, float]) -> float:
    return math.hypot(
        *((a - b) / part for a, b, part in zip(one.middle, two.middle, unit, strict=True))
    )


def _ask_pairs(chance: Chance, sight: _Sight) -> Iterator[Asking]:
    rng, things = chance.rng, sight.things
    pairs = [(one, two) for one in things for two in things if one is not two]
    for one, two in rng.sample(pairs, min(6, len(pairs))):
        names = {"one": refer(rng, one, things), "two": refer(rng, two, things)}
        for side in ("left", "right", "above", "below"):
            if not sight.is_beyond(side, one, two):
                continue
            if side in ("left", "right"):
                yield Asking(SIDE_WORDINGS, side, "left or right", names)
            else:
                yield Asking(HEIGHT_WORDINGS, side, "above or below", names)
            is_true = rng.random() < 0.5
            where = rng.choice(_WHERE[side if is_true else _OPPOSITES[side]])
            answer = "yes" if is_true else "no"
            yield Asking(TRUE_WORDINGS, answer, "yes or no", {**names, "where": where})


def _ask_single(chance: Chance, sight: _Sight) -> Iterator[Asking]:
    rng, things = chance.rng, sight.things
    for side in ("left", "right", "above", "below"):
        first = sight.outermost(side)
        if first is not None:
            parts = {"most": rng.choice(_MOST[side])}
            yield Asking(OUTER_WORDINGS, f"the {first.name}", "which", parts)
    for thing in things:
        name = refer(rng, thing, things)
        zone = sight.zone(thing)
        if zone is not None:
            yield Asking(PLACE_WORDINGS, zone, "where", {"one": name})
        for side in ("left", "right", "above", "below"):
            beyond = sight.only_beyond(side, thing)
            if beyond is not None:
                parts = {"where": rng.choice(_WHAT_WHERE[side]), "two": name}
                yield Asking(WHAT_WORDINGS, f"the {beyond.name}", "which", parts)
        if len(things) > 2:
            neighbour = sight.nearest(thing)
            if neighbour is not None:
                yield Asking(NEAREST_WORDINGS, f"the {neighbour.name}", "nearest", {"two": name})


def _place_anywhere(chance: Chance, canvas: Canvas, num: int) -> list[Box] | None:
    least = (22 if chance.is_hard() else 36) * max(canvas.shrink)
    return place_boxes(chance.rng, canvas, num, (least, 0.26 * min(canvas.width, canvas.height)))


def _place_in_zones(chance: Chance, canvas: Canvas, num: int) -> list[Box]:
    rng = chance.rng
    boxes: list[Box] = []
    for x, y in rng.sample(list(_ZONES.values()), num):
        side = round(rng.uniform(0.13, 0.2) * min(canvas.width, canvas.height))
        left = round((x + rng.uniform(-0.05, 0.05)) * canvas.width - side / 2)
        top = round((y + rng.uniform(-0.05, 0.05)) * canvas.height - side / 2)
        boxes.append((left, top, left + side, top + side))
    return boxes


class Relations:
    """Two to five things, no two alike; the answer is a place, a thing, yes or no."""

    name = "relations"

    def draw(self, chance: Chance) -> Drawing:
        """Draw the things, half of the time in the corners and the centre alone."""
        rng = chance.rng
        num = rng.choice((2, 3, 3, 4, 4, 5)) if chance.is_hard() else rng.choice((2, 3))
        place: Callable[[Chance, Canvas, int], list[Box] | None]
        place = _place_in_zones if rng.random() < 0.5 else _place_anywhere
        background = choose_background(chance)
        pairs = choose_pairs(rng, colours_on(background), num)
        turns: tuple[Turn, ...] = ()
        while not turns:
            canvas = choose_single_canvas(chance)
            boxes = place(chance, canvas, num)
            if boxes is None:
                continue
            things = [Thing(*pair, box) for pair, box in zip(pairs, boxes, strict=True)]
            sight = _Sight(canvas, things)
            askings = [*_ask_pairs(chance, sight), *_ask_single(chance, sight)]
            turns = ask_some(chance, askings, MAX_TURNS)
        image = draw_things(chance, canvas, things, background)
        return Drawing(self.name, (image,), turns, (mark_things(things),), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected one; case, articles and spelling do not count."""
        return score_short(turn, answer.lower().replace("center", "centre"))
