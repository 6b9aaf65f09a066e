"""Questions about the plan of a room: counts, distances, directions, sizes.

Where things are is left to :mod:`internvl35.data.synthetic.rooms.room_plans`. Kinds, and some
wordings, are those of VSI-Bench (arXiv 2412.14171); paper section 3 (spatial reasoning).
"""

from __future__ import annotations

from itertools import permutations

from internvl35.data.synthetic.choosing import Asking
from internvl35.data.synthetic.drawing import Chance, wordings
from internvl35.data.synthetic.rooms.furniture import KINDS
from internvl35.data.synthetic.rooms.room_plans import (
    Room,
    distance,
    is_clearly_nearer,
    seen_side,
)

_LETTER = "\n{options}\nAnswer with the option's letter from the given choices directly."
_NUMBER = "\nPlease answer the question using a single word or phrase."

COUNT_WORDINGS = wordings(
    "How many {name}(s) are in this room?",
    "How many {name}(s) are there?",
    "How many {name}(s) does the room have?",
    "How many {name}(s) can you see in this room?",
    "How many {name}(s) does the plan show?",
    "Count the {name}(s) in this room.",
    "How many {name}(s) stand in the room?",
    "How many {name}(s) are in this room?" + _NUMBER,
    "What is the number of {name}(s) in the room?",
    "Give the number of {name}(s).",
    "Tell me how many {name}(s) are in the room.",
    "How many {name}(s) are there in this room?" + _NUMBER,
    "Looking at the plan, how many {name}(s) do you count?",
)
"""Ways to ask for a number of things."""

_NEAREST = (
    "Measuring from the closest point of each object, which of these objects ({names}) is the "
    "closest to the {target}?",
    "Which of these objects ({names}) is the closest to the {target}?",
    "Which of these is nearest to the {target}: {names}?",
    "Which one is closest to the {target}: {names}?",
    "Of {names}, which is the nearest to the {target}?",
    "Which object is closest to the {target} ({names})?",
    "Choose from {names}: what is closest to the {target}?",
    "Measured from the nearest points, which of these objects ({names}) is nearest to the "
    "{target}?",
    "Among {names}, which is the closest to the {target}?",
    "Tell me which of these stands nearest to the {target}: {names}.",
    "Which of {names} has the shortest distance to the {target}?",
    "In this room, which of these objects ({names}) is nearest to the {target}?",
    "Which of these things ({names}) is closest to the {target}?",
)
NEAREST_WORDINGS = wordings(*_NEAREST)
"""Ways to ask which of several things is the closest to another."""
NEAREST_CHOICE_WORDINGS = wordings(*(text + _LETTER for text in _NEAREST))
"""The same with options, to be answered by a letter."""

NEARER_WORDINGS = wordings(
    "Which is closer to the {target}, the {one} or the {two}?",
    "Which is nearer to the {target}: the {one} or the {two}?",
    "Is the {one} or the {two} closer to the {target}?",
    "What stands closer to the {target}, the {one} or the {two}?",
    "Of the {one} and the {two}, which is closer to the {target}?",
    "Seen from the {target}, which is nearer, the {one} or the {two}?",
    "Which of the two is closer to the {target}, the {one} or the {two}?",
    "The {one} or the {two}: which is nearer to the {target}?",
    "Tell me which is closer to the {target}, the {one} or the {two}.",
    "Which has the shorter way to the {target}, the {one} or the {two}?",
    "Between the {one} and the {two}, which one is nearer to the {target}?",
    "Is it the {one} or the {two} that stands nearer to the {target}?",
    "In this room, which is closer to the {target}, the {one} or the {two}?",
)
"""Ways to ask which of two things is closer to a third."""

SIDE_WORDINGS = wordings(
    "Is the {one} left or right of the {two} in the plan?",
    "Is the {one} to the left or to the right of the {two}?",
    "On the plan, is the {one} left or right of the {two}?",
    "On which side of the {two} is the {one} in the plan, left or right?",
    "Left or right: where is the {one} compared with the {two}?",
    "Does the {one} stand left or right of the {two}?",
    "In the plan, is the {one} on the left or on the right of the {two}?",
    "Where is the {one}, left or right of the {two}?",
    "Tell me whether the {one} is left or right of the {two}.",
    "Compared with the {two}, is the {one} further left or further right? Say left or right.",
    "Is the {one} on the left or the right side of the {two}?",
    "Looking at the plan, is the {one} left or right of the {two}?",
    "Say left or right: the {one} is on which side of the {two}?",
)
"""Ways to ask which of two things is further left in the picture."""

HEIGHT_WORDINGS = wordings(
    "Is the {one} above or below the {two} in the plan?",
    "On the plan, is the {one} above or below the {two}?",
    "Above or below: where is the {one} compared with the {two}?",
    "In the plan, does the {one} stand above or below the {two}?",
    "Is the {one} drawn above or below the {two}?",
    "Where is the {one} in the plan, above or below the {two}?",
    "Tell me whether the {one} is above or below the {two} in the plan.",
    "Is the {one} higher or lower in the plan than the {two}? Say above or below.",
    "Looking at the plan, is the {one} above or below the {two}?",
    "In this picture, is the {one} above or below the {two}?",
    "Say above or below: where is the {one}, seen from the {two}?",
    "Does the plan show the {one} above or below the {two}?",
    "Compared with the {two}, is the {one} above or below?",
)
"""Ways to ask which of two things is further up in the picture."""

_FACING = (
    "If I am standing by the {stand} and facing the {face}, is the {other} to my left, right, or "
    "back? An object is to my back if I would have to turn at least 135 degrees in order to face "
    "it.",
    "If I am standing by the {stand} and facing the {face}, is the {other} to my left, right, or "
    "back?",
    "I stand by the {stand} and face the {face}. Is the {other} to my left, right, or back?",
    "Standing by the {stand} and looking at the {face}, is the {other} to my left, right, or back?",
    "You stand at the {stand} and look towards the {face}. Where is the {other}: left, right, or "
    "back?",
    "From the {stand}, facing the {face}: is the {other} on the left, on the right, or at the "
    "back?",
    "Suppose I stand by the {stand} and face the {face}. Is the {other} left, right, or back?",
    "I am at the {stand} and look at the {face}. Is the {other} to my left, right, or back?",
    "When I stand at the {stand} facing the {face}, where is the {other}: left, right, or back?",
    "Facing the {face} from the {stand}, do I have the {other} to my left, right, or back?",
    "Imagine standing by the {stand} and facing the {face}. Is the {other} to your left, right, "
    "or back?",
    "If I look from the {stand} to the {face}, is the {other} to my left, right, or back?",
    "With the {stand} beside me and the {face} in front, is the {other} left, right, or back?",
)
FACING_WORDINGS = wordings(*_FACING)
"""Ways to ask for a side as somebody in the room sees it."""
FACING_CHOICE_WORDINGS = wordings(*(text + _LETTER for text in _FACING))
"""The same with options, to be answered by a letter."""

PRESENCE_WORDINGS = wordings(
    "Is there a {name} in this room?",
    "Does this room have a {name}?",
    "Can you see a {name} in the plan?",
    "Is a {name} in the room?",
    "Does the plan show a {name}?",
    "Do you see a {name} in this room?",
    "Is there a {name} in this room? Answer yes or no.",
    "Yes or no: there is a {name} in the room.",
    "Has the room a {name}?",
    "Is there any {name} here?",
    "Would I find a {name} in this room?",
    "Please answer yes or no: does the room have a {name}?",
    "Looking at the plan, is there a {name}?",
)
"""Ways to ask whether a kind of thing is there."""

AREA_WORDINGS = wordings(
    "What is the size of this room (in square meters)?",
    "What is the size of this room (in square metres)?",
    "What is the size of this room (in square meters)? If multiple rooms are shown, estimate the "
    "size of the combined space.",
    "How many square metres does this room have?",
    "How large is this room in square metres?",
    "What is the area of the room in square meters?",
    "Give the area of this room in square metres.",
    "How many square meters is the floor?",
    "What is the floor area in square metres?",
    "How big is the room, in square meters?",
    "Tell me the size of the room in square metres.",
    "What is the size of this room (in square meters)?" + _NUMBER,
    "Work out the area of the room in square metres.",
)
"""Ways to ask for the area of a room whose sides are printed."""

LENGTH_WORDINGS = wordings(
    "How {long} is this room in metres?",
    "How {long} is this room in meters?",
    "How many metres {long} is the room?",
    "How many meters {long} is the room?",
    "How {long} is the room (in meters)?",
    "In metres, how {long} is the room?",
    "According to the plan, how {long} is the room in metres?",
    "How {long} is the room in meters?" + _NUMBER,
    "Tell me how {long} the room is, in metres.",
    "How {long} is the floor in metres?",
    "Read from the plan how {long} the room is, in meters.",
    "Say how {long} this room is in meters.",
    "The room is how many metres {long}?",
)
"""Ways to ask for a printed side; ``{long}`` is "wide" (left to right) or "deep" (up and down)."""


def ask_room(chance: Chance, room: Room, repeated: str, unit: float) -> list[Asking]:
    """Collect what can be asked about a room.

    Args:
        chance: of what is compared with what.
        room: the plan.
        repeated: the name whose number is asked for.
        unit: pixels of the picture that a pixel of a tile covers.
    """
    num = sum(piece.name == repeated for piece in room.pieces)
    askings = [Asking(COUNT_WORDINGS, str(num), "count", {"name": repeated})]
    askings.append(_ask_presence(chance, room))
    for ask in (_ask_nearest, _ask_nearest, _ask_nearer, _ask_nearer):
        askings += ask(chance, room, unit)
    askings += _ask_sides(chance, room, unit)
    askings += _ask_facing(chance, room)
    if room.metres:
        wide, deep = room.metres
        askings += [
            Asking(AREA_WORDINGS, str(wide * deep), "area"),
            Asking(LENGTH_WORDINGS, str(wide), "length", {"long": "wide"}),
            Asking(LENGTH_WORDINGS, str(deep), "length", {"long": "deep"}),
        ]
    # Chance may have come upon the same comparison twice.
    return list({(one.kind, *one.parts.values()): one for one in askings}.values())


def _ask_presence(chance: Chance, room: Room) -> Asking:
    there = {piece.name for piece in room.pieces}
    is_there = chance.rng.random() < 0.5
    name = chance.rng.choice([name for name in KINDS if (name in there) == is_there])
    return Asking(PRESENCE_WORDINGS, "yes" if is_there else "no", "presence", {"name": name})


def _ask_nearest(chance: Chance, room: Room, unit: float) -> list[Asking]:
    rng = chance.rng
    things = list(room.single)
    for _ in range(16):
        rng.shuffle(things)
        target, *others = things
        if rng.random() < 0.4:  # the door, as in half of all plans people ask about
            target = room.openings[0]
            others = [thing for thing in things if thing is not target]
        others = [thing for thing in others if thing.name != "window"][: rng.choice((3, 4, 4, 4))]
        if len(others) < 3:
            continue
        near = min(others, key=lambda thing: distance(thing, target))
        rest = [thing for thing in others if thing is not near]
        if all(is_clearly_nearer(near, far, target, unit) for far in rest):
            names = [thing.name for thing in others]
            parts = {"names": ", ".join(names), "target": target.name}
            if rng.random() < 0.7:
                return [Asking(NEAREST_WORDINGS, near.name, "nearest", parts)]
            letter = "ABCD"[names.index(near.name)]
            parts["options"] = _list_options(names)
            return [Asking(NEAREST_CHOICE_WORDINGS, letter, "choice", parts)]
    return []


def _ask_nearer(chance: Chance, room: Room, unit: float) -> list[Asking]:
    rng, things = chance.rng, room.single
    for _ in range(8):
        if len(things) < 3:
            break
        target, near, far = rng.sample(things, 3)
        if is_clearly_nearer(near, far, target, unit):
            one, two = rng.sample((near.name, far.name), 2)
            parts = {"target": target.name, "one": one, "two": two}
            return [Asking(NEARER_WORDINGS, near.name, "nearer", parts)]
    return []


def _ask_sides(chance: Chance, room: Room, unit: float) -> list[Asking]:
    rng, things = chance.rng, room.single
    askings: list[Asking] = []
    for _ in range(8):
        if len(things) < 2:
            break
        one, two = rng.sample(things, 2)
        parts = {"one": one.name, "two": two.name}
        axis = rng.randrange(2)
        is_before = one.middle[axis] < two.middle[axis]
        first, second = (one, two) if is_before else (two, one)
        is_apart = second.box[axis] - first.box[axis + 2] >= 2 * unit
        if not is_apart or second.middle[axis] - first.middle[axis] < 24 * unit:
            continue
        if axis == 0:
            side = "left" if is_before else "right"
            askings.append(Asking(SIDE_WORDINGS, side, "side", parts))
        else:
            side = "above" if is_before else "below"
            askings.append(Asking(HEIGHT_WORDINGS, side, "height", parts))
    return askings[:2]


def _ask_facing(chance: Chance, room: Room) -> list[Asking]:
    # Nearly straight lines with the person in between are rarer than corners; so is "back".
    rng = chance.rng
    wanted = rng.choices(("left", "right", "back"), (3, 3, 5))[0]
    triples = list(permutations(room.single, 3))
    for stand, face, other in rng.sample(triples, min(60, len(triples))):
        if seen_side(stand, face, other) != wanted:
            continue
        parts = {"stand": stand.name, "face": face.name, "other": other.name}
        if rng.random() < 0.75:
            return [Asking(FACING_WORDINGS, wanted, "facing", parts)]
        sides = rng.sample(("left", "right", "back"), 3)
        parts["options"] = _list_options(sides)
        return [Asking(FACING_CHOICE_WORDINGS, "ABC"[sides.index(wanted)], "choice", parts)]
    return []


def _list_options(names: list[str]) -> str:
    lines = (f"{letter}. {name}" for letter, name in zip("ABCD", names, strict=False))
    return "Options:\n" + "\n".join(lines)
