"""Tasks that this project draws: pictures, questions, answers, and how to score them.

One file a family, all behind :class:`~internvl35.data.synthetic.drawing.Family`. Turning drawings
into tiles and tokens is left to others. The embedded checkpoint learns from them; they have no
counterpart in the paper.
"""

from __future__ import annotations

from typing import get_args

from internvl35.data.synthetic.charts.bar_charts import Bars
from internvl35.data.synthetic.charts.line_charts import Curves
from internvl35.data.synthetic.charts.pie_charts import Pies
from internvl35.data.synthetic.code.formulas import Formulas
from internvl35.data.synthetic.code.svg_drawing import SvgDrawing
from internvl35.data.synthetic.code.svg_questions import SvgQuestions
from internvl35.data.synthetic.drawing import Chance, Drawing, Family, Numbers, Split, Turn
from internvl35.data.synthetic.labels import MARK_LABELS, Mark
from internvl35.data.synthetic.printed.lines import Lines
from internvl35.data.synthetic.printed.pages import draw_page
from internvl35.data.synthetic.printed.reading import Reading
from internvl35.data.synthetic.printed.receipts import Receipts
from internvl35.data.synthetic.rooms.rooms import Rooms
from internvl35.data.synthetic.screens.screens import Screens
from internvl35.data.synthetic.shapes.counting import Counting
from internvl35.data.synthetic.shapes.motion import Motion
from internvl35.data.synthetic.shapes.relations import Relations
from internvl35.data.synthetic.shapes.several import Several
from internvl35.data.synthetic.shapes.shapes import Shapes
from internvl35.data.synthetic.sheet import contact_sheet
from internvl35.data.synthetic.sums.arithmetic import Arithmetic
from internvl35.data.synthetic.sums.sums import Sums
from internvl35.data.synthetic.talk.honesty import Honesty
from internvl35.data.synthetic.talk.talk import Talk
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

FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        Reading(),
        Lines(),
        Receipts(),
        Counting(),
        Shapes(),
        Talk(),
        Sums(),
        Arithmetic(),
        SvgDrawing(),
        Bars(),
        Relations(),
        Curves(),
        Several(),
        Motion(),
        Screens(),
        Pies(),
        Formulas(),
        Honesty(),
        SvgQuestions(),
        Rooms(),
    )
}
"""Every kind of task by name."""


def draw(family: str, split: Split, index: int, level: float = 1.0) -> Drawing:
    """Draw one task; the same arguments always give the same one.

    Args:
        family: key of ``FAMILIES``.
        split: stream; no two streams share a seed, and ``test`` alone uses what is kept for it.
        index: place in the stream, from 0.
        level: 0 for the easiest drawings to 1 for those of the test.

    Returns:
        Pictures, questions and marks.

    Raises:
        DataError: if the family or the split is unknown or the level is outside 0 to 1.
        RuntimeError: if the family tries without end; it says which drawing it was.
    """
    if family not in FAMILIES:
        raise DataError(f"family {family!r} is unknown; there are {', '.join(FAMILIES)}")
    return FAMILIES[family].draw(start_chance(family, split, index, level))


def start_chance(name: str, split: Split, index: int, level: float = 1.0) -> Chance:
    """Begin the drawing at a place of a stream.

    Args:
        name: of the stream: a family, or ``page``.
        split: which of the three.
        index: place in it, from 0.
        level: 0 for the easiest drawings to 1 for those of the test.

    Returns:
        The chances, the same for the same arguments.

    Raises:
        DataError: if the split is unknown or the level is outside 0 to 1.
    """
    if split not in get_args(Split):
        raise DataError(f"split {split!r} is unknown; there are {', '.join(get_args(Split))}")
    if not 0 <= level <= 1:
        raise DataError(f"level is {level}; it must be from 0 to 1")
    numbers = Numbers(f"{split}/{name}/{index}")
    return Chance(numbers, level, is_test=split == "test")
