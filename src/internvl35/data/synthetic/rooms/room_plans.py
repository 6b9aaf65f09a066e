"""A room seen from above: where its walls, its door and its furniture are, and how far apart.

Drawing is left to :mod:`internvl35.data.synthetic.rooms.rooms`. No counterpart in the paper.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from internvl35.data.synthetic.canvas import is_apart
from internvl35.data.synthetic.drawing import Box

_STRAIGHT = 2.2  # of a direction along a wall: longer by this in one way than in the other


@dataclass(frozen=True)
class Piece:
    """A thing in a room."""

    name: str
    """One of the names of furniture, the door included."""
    box: Box
    """What it covers, in pixels."""
    quarters: int = 0
    """Quarter turns against the clock."""

    @property
    def middle(self) -> tuple[float, float]:
        """Middle of the box."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Room:
    """Walls with what stands between them."""

    floor: Box
    """Inner edges of the walls, pixels."""
    wall: int
    """How thick the walls are, pixels."""
    pieces: tuple[Piece, ...]
    """Furniture."""
    openings: tuple[Piece, ...]
    """The door, and a window if there is one."""
    metres: tuple[int, int] | None = None
    """Width and height of the floor, if the plan tells them."""

    @property
    def single(self) -> tuple[Piece, ...]:
        """Things that are the only ones of their name, the door included."""
        things = self.pieces + self.openings
        names = [thing.name for thing in things]
        return tuple(thing for thing in things if names.count(thing.name) == 1)


def distance(one: Piece, two: Piece) -> float:
    """Pixels between the closest points of two things."""
    across = max(one.box[0] - two.box[2], two.box[0] - one.box[2], 0)
    down = max(one.box[1] - two.box[3], two.box[1] - one.box[3], 0)
    return math.hypot(across, down)


def is_clearly_nearer(near: Piece, far: Piece, target: Piece, unit: float) -> bool:
    """Whether anyone can see that one of two things is closer to a third.

    Args:
        near: the closer one.
        far: the other.
        target: what distances are measured to.
        unit: pixels of the picture that a pixel of a tile covers.
    """
    least, most = distance(near, target), distance(far, target)
    return most >= 1.35 * least and most - least >= 10 * unit


def seen_side(stand: Piece, face: Piece, other: Piece) -> str:
    """Where a thing is for somebody who stands by one thing and faces another.

    Args:
        stand: where the person is.
        face: what the person looks at, along the walls.
        other: what is asked for.

    Returns:
        ``left``, ``right`` or ``back``; empty if it is in front, near the border between two of
        them (45 and 135 degrees), or if the person looks across the room.
    """
    (from_x, from_y), (ahead_x, ahead_y) = stand.middle, face.middle
    ahead_x, ahead_y = ahead_x - from_x, ahead_y - from_y
    if max(abs(ahead_x), abs(ahead_y)) < _STRAIGHT * min(abs(ahead_x), abs(ahead_y)):
        return ""
    aside_x, aside_y = other.middle[0] - from_x, other.middle[1] - from_y
    along = ahead_x * aside_x + ahead_y * aside_y
    across = ahead_x * aside_y - ahead_y * aside_x  # positive to the right, as y points down
    angle = math.degrees(math.atan2(across, along))
    if abs(angle) >= 150:
        return "back"
    if 60 <= abs(angle) <= 118:
        return "right" if angle > 0 else "left"
    return ""


@dataclass(frozen=True)
class Size:
    """A piece of furniture that has no place yet."""

    name: str
    """One of the names of furniture."""
    width: int
    """Pixels, turned already."""
    height: int
    """Pixels, turned already."""
    quarters: int
    """Quarter turns against the clock."""
    label_width: int
    """Pixels of the print below it, 0 if there is none."""


def place_pieces(
    rng: random.Random, room: Room, sizes: list[Size], gap: float, below: int
) -> tuple[Piece, ...] | None:
    """Find places for furniture that does not touch anything.

    Args:
        rng: source of chance.
        room: walls and door; what already stands in it is ignored.
        sizes: the pieces.
        gap: least pixels between two pieces.
        below: pixels that the print below a piece takes.

    Returns:
        The pieces, or None if chance did not find room for all.
    """
    left, top, right, bottom = room.floor
    placed: list[Piece] = []
    taken: list[Box] = [
        (box[0] - 1.5 * gap, box[1] - 1.5 * gap, box[2] + 1.5 * gap, box[3] + 1.5 * gap)
        for box in (opening.box for opening in room.openings if opening.name == "door")
    ]
    for size in sizes:
        width, height = max(size.width, size.label_width), size.height + below
        room_x, room_y = right - left - width - 4, bottom - top - height - 4
        if room_x < 0 or room_y < 0:
            return None
        for _ in range(30):
            x = round(left + 2 + room_x * rng.random())
            y = round(top + 2 + room_y * rng.random())
            whole = (x, y, x + width, y + height)
            if all(is_apart(whole, other, gap, gap) for other in taken):
                start = x + (width - size.width) // 2
                box = (start, y, start + size.width, y + size.height)
                placed.append(Piece(size.name, box, size.quarters))
                taken.append(whole)
                break
        else:
            return None
    return tuple(placed)
