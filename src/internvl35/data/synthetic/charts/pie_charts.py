"""Pie charts whose labels stand in the slices, beside them or in a legend.

Labels and titles are left to :mod:`internvl35.data.synthetic.charts.chart_tables`, what is asked to
:mod:`internvl35.data.synthetic.charts.chart_questions`. No counterpart in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, pairwise

from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import choose_single_canvas, is_apart
from internvl35.data.synthetic.charts.chart_frame import draw_legend
from internvl35.data.synthetic.charts.chart_questions import (
    SHARE_WORDINGS,
    TITLE_WORDINGS,
    WHICH_WORDINGS,
    ask_colours,
    ask_comparison,
    ask_count,
    ask_labels,
    choose_turns,
    score_chart,
)
from internvl35.data.synthetic.charts.chart_tables import (
    Scale,
    Table,
    chart_colours,
    choose_labels,
    choose_title,
    write_title,
)
from internvl35.data.synthetic.colours import Colour, ink_on, vary_colour
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn
from internvl35.data.synthetic.printed.paper import Paper

_SCALE = 2
_UNIT = 5  # shares are multiples of this
_LEAST_SHARE = 10
_LEAD = 10  # of the largest share over the next, and of the two that are compared


@dataclass(frozen=True)
class _Pie:
    """A circle cut into slices."""

    middle: tuple[float, float]
    radius: float
    hole: float
    """Radius of the part in the middle that is cut out."""
    turns: tuple[float, ...]
    """Where the slices begin, and where the last one ends, in turns clockwise from the right."""

    def place(self, slice_: int, distance: float) -> tuple[float, float]:
        """Point on the line that halves a slice, so many radii from the middle."""
        angle = math.pi * (self.turns[slice_] + self.turns[slice_ + 1])
        reach = distance * self.radius
        return self.middle[0] + reach * math.cos(angle), self.middle[1] + reach * math.sin(angle)

    def holds(self, slice_: int, box: Box) -> bool:
        """Whether a rectangle lies in a slice."""
        start, end = self.turns[slice_], self.turns[slice_ + 1]
        for x in (box[0], box[2]):
            for y in (box[1], box[3]):
                across, down = x - self.middle[0], y - self.middle[1]
                along = (math.atan2(down, across) / (2 * math.pi) - start) % 1
                if along > end - start or not self.hole < math.hypot(across, down) < self.radius:
                    return False
        return True


@lru_cache
def _list_shares(num: int) -> tuple[tuple[int, ...], ...]:
    """All per cents that add up to 100 of which the largest and the smallest stand out."""
    found: list[tuple[int, ...]] = []
    for cuts in combinations(range(_UNIT, 100, _UNIT), num - 1):
        shares = tuple(high - low for low, high in pairwise((0, *cuts, 100)))
        ranked = sorted(shares)
        if (
            ranked[0] >= _LEAST_SHARE
            and ranked[-1] - ranked[-2] >= _LEAD
            and ranked[1] - ranked[0] >= _UNIT * (1 if num > 3 else 2)
        ):
            found.append(shares)
    return tuple(found)


def _text_box(paper: Paper, text: str, x: float, y: float, align: float = 0.5) -> Box:
    left = x - align * paper.width(text)
    return left - 3, y - paper.cap / 2 - 3, left + paper.width(text) + 3, y + paper.cap / 2 + 3


class _Plan:
    """A pie with its print; legible or not.

    Args:
        chance: of all that may vary.
        num: of slices.
        has_shares: whether shares are printed.
    """

    def __init__(self, chance: Chance, num: int, *, has_shares: bool) -> None:
        """Lay out a pie."""
        rng = chance.rng
        self.paper = paper = Paper(chance, choose_single_canvas(chance))
        self.table = Table(
            choose_labels(chance, num), rng.choice(_list_shares(num)), Scale(_UNIT, 100, 20), False
        )
        self.title = choose_title(chance)
        self.top = write_title(paper, self.title)
        self.style = rng.choice(("inside", "beside", "legend")) if chance.is_hard() else "inside"
        self.has_shares = has_shares
        self.colours = rng.sample(chart_colours(paper), num)
        self.fills = [vary_colour(chance, colour) for colour in self.colours]
        left, right = 0.0, float(paper.canvas.width)
        if self.style == "legend":
            right = draw_legend(paper, self.table.labels, self.fills, self.top)
        room_x, room_y = right - left, paper.canvas.height - self.top
        margin = 4 * max(paper.canvas.shrink)
        radius = min(room_x, room_y) / 2 - margin
        if self.style == "beside":
            beside = paper.widest(self.table.labels) + margin
            radius = min(room_x / 2 - beside, room_y / 2 - paper.cap) - margin
        start = rng.random()
        ends = [sum(self.table.values[:place]) / 100 + start for place in range(num + 1)]
        is_ring = chance.is_hard() and self.style != "inside" and rng.random() < 0.25
        self.pie = _Pie(
            ((left + right) / 2, self.top + room_y / 2),
            radius,
            0.4 * radius if is_ring else 0,
            tuple(ends),
        )
        self.print = self._lay_print()
        boxes = [_text_box(paper, *where) for where, _ in self.print]
        self.is_legible = radius >= 42 * max(paper.canvas.shrink) and all(
            self._is_clear(place, boxes) for place in range(len(boxes))
        )

    def _lay_print(self) -> list[tuple[tuple[str, float, float, float], int]]:
        """Lines with x, y and align, each with the slice it stands in; -1 for outside of all."""
        laid: list[tuple[tuple[str, float, float, float], int]] = []
        middle = 0.7 if self.pie.hole else 0.62
        for place, (label, share) in enumerate(
            zip(self.table.labels, self.table.values, strict=True)
        ):
            x, y = self.pie.place(place, middle)
            shift = 0.75 * self.paper.cap if self.has_shares and self.style == "inside" else 0
            if self.style == "inside":
                laid.append(((label, x, y - shift, 0.5), place))
            if self.has_shares:
                laid.append(((f"{share}%", x, y + shift, 0.5), place))
            if self.style == "beside":
                gap = 1 + 0.75 * self.paper.cap / self.pie.radius
                x, y = self.pie.place(place, gap)
                align = 0.5 - 0.5 * (x - self.pie.middle[0]) / (gap * self.pie.radius)
                laid.append(((label, x, y, align), -1))
        return laid

    def _is_clear(self, place: int, boxes: list[Box]) -> bool:
        box, slice_ = boxes[place], self.print[place][1]
        if slice_ >= 0:
            return self.pie.holds(slice_, box)
        canvas = self.paper.canvas
        return (
            box[0] >= 0
            and box[1] >= self.top - 2
            and box[2] <= canvas.width
            and box[3] <= canvas.height
            and all(is_apart(box, other, 0, 0) for other in boxes[:place] + boxes[place + 1 :])
        )


def _draw_pie(chance: Chance, plan: _Plan) -> None:
    paper, pie = plan.paper, plan.pie
    side = 2 * math.ceil(pie.radius) + 4
    left, top = (round(middle - side / 2) for middle in pie.middle)
    layer = Image.new("RGB", (_SCALE * side, _SCALE * side), paper.ground)
    pen = ImageDraw.Draw(layer)
    x, y, reach = pie.middle[0] - left, pie.middle[1] - top, pie.radius
    edge = chance.rng.choice((None, paper.ground, paper.ink))
    circle = [_SCALE * end for end in (x - reach, y - reach, x + reach, y + reach)]
    for (start, end), fill in zip(pairwise(pie.turns), plan.fills, strict=True):
        pen.pieslice(circle, 360 * start, 360 * end, fill, edge, 2)
    if pie.hole:
        hole = [_SCALE * end for end in (x - pie.hole, y - pie.hole, x + pie.hole, y + pie.hole)]
        pen.ellipse(hole, paper.ground, edge, 2)
    paper.image.paste(layer.reduce(_SCALE), (left, top))
    for place, (share, colour) in enumerate(zip(plan.table.values, plan.colours, strict=True)):
        x, y = pie.place(place, 0.62)
        half = min(0.32 * reach, 0.42 * reach * math.sin(math.pi * min(0.5, share / 100)))
        for label in ("part:slice", f"colour:{colour}"):
            paper.mark(label, (x - half, y - half, x + half, y + half))
    inks: list[Colour] = [ink_on(fill) for fill in plan.fills]
    for (text, x, y, align), slice_ in plan.print:
        paper.write(text, x, y + paper.cap / 2, align, inks[slice_] if slice_ >= 0 else None)


def _ask(chance: Chance, plan: _Plan) -> list[Turn]:
    table, rng = plan.table, chance.rng
    turns = [
        *ask_labels(chance, table, "slice"),
        *ask_colours(chance, table, plan.colours, "slice"),
        ask_comparison(chance, table, _LEAD),
        ask_count(chance, table, "slices"),
    ]
    if plan.has_shares:
        place, other = rng.sample(range(len(table.labels)), 2)
        share = f"{table.values[place]}%"
        parts = {"label": table.labels[place]}
        turns.append(chance.turn(SHARE_WORDINGS, share, "share", parts=parts))
        if table.values.count(table.values[other]) == 1:
            named = {"part": "slice", "value": f"{table.values[other]}%"}
            turns.append(chance.turn(WHICH_WORDINGS, table.labels[other], "which", parts=named))
    if plan.title:
        turns.append(chance.turn(TITLE_WORDINGS, plan.title, "title"))
    return turns


class Pies:
    """Three to five slices; the answer is a label, a share, a colour, or yes or no."""

    name = "pies"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a chart; a higher level has more slices and kinds of labels."""
        num = chance.rng.randint(3, 5) if chance.is_hard() else 3
        has_shares = num < 5 and chance.rng.random() < 0.55  # five slices are too thin for print
        plan = _Plan(chance, num, has_shares=has_shares)
        while not plan.is_legible:
            chance = chance.begin_again()
            plan = _Plan(chance, num, has_shares=has_shares)
        _draw_pie(chance, plan)
        turns = choose_turns(chance.rng, _ask(chance, plan))
        paper = plan.paper
        return Drawing(
            self.name, (paper.image,), turns, (tuple(paper.marks),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the label, the word or the printed number."""
        return score_chart(turn, answer)
