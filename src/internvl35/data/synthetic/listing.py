"""Everything that stands in a drawn picture, as one answer: what captions are for larger models.

Made from the marks of any family, for training alone: one such answer ties more of a picture to
words than many short questions. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn, wordings
from internvl35.data.synthetic.labels import Mark

WORDINGS = wordings(
    "List everything from top to bottom with its place.",
    "List all things in the picture and where they are.",
    "What stands where?",
    "What stands where in the picture?",
    "Name everything and its place.",
    "Give all things with their places, from top to bottom.",
    "Describe the picture thing by thing.",
    "Write down what is where.",
)
"""Ways to ask for all things; places are tenths of the picture, across and down."""

MAX_THINGS = 10
"""Most things that are listed; pictures with more are not asked about in this way."""

_NAMED_PARTS = frozenset(
    {"title", "button", "field", "checkbox", "radio", "slider", "tab", "link", "menu", "bar",
     "point", "slice"}
)  # fmt: skip


def list_things(drawing: Drawing, chance: Chance) -> Turn | None:
    """Ask for everything in a picture.

    Args:
        drawing: of any family.
        chance: chooses the wording.

    Returns:
        A turn of kind ``list``, such as "red circle 3 7, blue star 8 2"; None for several pictures
        and for pictures with no or too many things.
    """
    if len(drawing.images) != 1 or not drawing.marks:
        return None
    things = _named_things(drawing.marks[0])
    if not 0 < len(things) <= MAX_THINGS:
        return None
    width, height = drawing.images[0].size
    parts = [
        f"{name} {_tenth(box[0] + box[2], width)} {_tenth(box[1] + box[3], height)}"
        for box, name in sorted(things, key=_height)
    ]
    return chance.turn(WORDINGS, ", ".join(parts), "list")


def _height(thing: tuple[Box, str]) -> tuple[float, float]:
    box, _ = thing
    return (box[1] + box[3], box[0] + box[2])


def _tenth(twice_middle: float, side: int) -> int:
    return min(9, max(0, int(5 * twice_middle / side)))


def _named_things(marks: Sequence[Mark]) -> list[tuple[Box, str]]:
    """Boxes with the colours and names that are marked there."""
    labels: dict[Box, dict[str, str]] = {}
    for mark in marks:
        kind, _, name = mark.label.partition(":")
        labels.setdefault(mark.box, {}).setdefault(kind, name)
    found: list[tuple[Box, str]] = []
    for box, kinds in labels.items():
        thing = kinds.get("shape") or kinds.get("furniture") or _part_name(kinds)
        if thing is not None:
            found.append((box, f"{kinds['colour']} {thing}" if "colour" in kinds else thing))
    return found


def _part_name(kinds: dict[str, str]) -> str | None:
    if "icon" in kinds:
        return f"{kinds['icon']} icon"
    part = kinds.get("part")
    return part if part in _NAMED_PARTS else None
