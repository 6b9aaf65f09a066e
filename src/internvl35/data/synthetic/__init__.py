"""Tasks that this project draws: pictures, questions, answers, and how to score them.

One file a family, all behind :class:`~internvl35.data.synthetic.scene.Family`. Turning drawings
into tiles and tokens is left to others. The embedded checkpoint learns from them; they have no
counterpart in the paper.
"""

from __future__ import annotations

import random
from typing import Literal

from internvl35.data.synthetic.counting import Counting
from internvl35.data.synthetic.greeting import Greeting
from internvl35.data.synthetic.reading import Reading, draw_page
from internvl35.data.synthetic.scene import MARK_LABELS, Drawing, Family, Mark, Turn
from internvl35.data.synthetic.shapes import Shapes
from internvl35.data.synthetic.sheet import contact_sheet
from internvl35.errors import DataError

__all__ = [
    "FAMILIES",
    "MARK_LABELS",
    "Drawing",
    "Family",
    "Mark",
    "Split",
    "Turn",
    "contact_sheet",
    "draw",
    "draw_page",
]

Split = Literal["train", "validation", "test"]

FAMILIES: dict[str, Family] = {
    family.name: family for family in (Counting(), Shapes(), Reading(), Greeting())
}
"""Every kind of task by name."""


def draw(family: str, split: Split, index: int, level: float = 1.0) -> Drawing:
    """Draw one picture; the same arguments always give the same one.

    Args:
        family: key of ``FAMILIES``.
        split: stream; no two streams share a seed.
        index: place in the stream, from 0.
        level: 0 for the easiest pictures to 1 for those of the test.

    Returns:
        Picture, questions and marks.

    Raises:
        DataError: if the family is unknown or the level is outside 0 to 1.
    """
    if family not in FAMILIES:
        raise DataError(f"family {family!r} is unknown; there are {', '.join(FAMILIES)}")
    if not 0 <= level <= 1:
        raise DataError(f"level is {level}; it must be from 0 to 1")
    return FAMILIES[family].draw(random.Random(f"{split}/{family}/{index}"), level)
