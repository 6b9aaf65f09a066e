"""Line charts with one or two lines of marked points, with or without grid and legend.

What they show is left to :mod:`internvl35.data.synthetic.charts.chart_tables`, what is asked to
:mod:`internvl35.data.synthetic.charts.line_questions`. No counterpart in the paper.
"""

from __future__ import annotations

from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import choose_single_canvas
from internvl35.data.synthetic.charts.chart_frame import AxisStyle, Frame, draw_axes
from internvl35.data.synthetic.charts.chart_questions import (
    TITLE_WORDINGS,
    choose_turns,
    score_chart,
)
from internvl35.data.synthetic.charts.chart_tables import (
    Scale,
    Table,
    chart_colours,
    choose_labels,
    choose_scale,
    choose_title,
    choose_values,
    write_title,
)
from internvl35.data.synthetic.charts.line_questions import Series, ask_lines
from internvl35.data.synthetic.colours import vary_colour
from internvl35.data.synthetic.drawing import Chance, Drawing, Turn
from internvl35.data.synthetic.printed.paper import Paper

_SCALE = 2
_LEGEND_NAMES = (
    ("A", "B"), ("X", "Y"), ("2019", "2020"), ("2023", "2024"), ("Ann", "Ben"), ("Rome", "Oslo"),
    ("Boys", "Girls"), ("Tea", "Milk"), ("Cats", "Dogs"), ("Cars", "Bikes"), ("Plan", "Real"),
    ("East", "West"), ("North", "South"), ("Old", "New"), ("Sun", "Rain"), ("Tom", "Lucy"),
)  # fmt: skip


def _choose_lines(chance: Chance, paper: Paper, num: int, num_lines: int) -> tuple[Series, ...]:
    rng = chance.rng
    scale = choose_scale(chance, num)
    labels = choose_labels(chance, num, is_time=True)
    first = choose_values(rng, scale, num, is_read=True)
    colours = rng.sample(chart_colours(paper), num_lines)
    if num_lines == 1:
        return (Series(Table(labels, first, scale, True), colours[0], ""),)
    names = rng.choice(_LEGEND_NAMES) if rng.random() < 0.5 else ("", "")
    return tuple(
        Series(Table(labels, values, scale, True), colour, name)
        for values, colour, name in zip(
            (first, _choose_second(chance, scale, first)), colours, names, strict=True
        )
    )


def _choose_second(chance: Chance, scale: Scale, first: tuple[int, ...]) -> tuple[int, ...]:
    while True:
        second = choose_values(chance.rng, scale, len(first), is_read=True)
        if all(one != two for one, two in zip(first, second, strict=True)):
            return second


def _draw_legend(paper: Paper, lines: tuple[Series, ...], top: int) -> int:
    """Name two lines in a row over the chart; where the chart may begin is returned."""
    across, down = paper.canvas.shrink
    swatch, gap = round(14 * across), round(4 * across)
    widths = [swatch + gap + paper.width(series.label) for series in lines]
    left = start = round((paper.canvas.width - sum(widths) - 4 * gap) / 2)
    base = top + paper.cap + round(2 * down)
    for series, width in zip(lines, widths, strict=True):
        middle = base - paper.cap // 2
        thick = round(2 * down)
        box = (left, middle - thick, left + swatch, middle + thick)
        paper.fill(box, paper.fills[series.colour])
        paper.write(series.label, left + swatch + gap, base)
        paper.mark(f"colour:{series.colour}", box)
        left += width + 4 * gap
    paper.mark("part:legend", (start - 2, top, left - 4 * gap + 2, base + 3))
    return base + round(5 * down)


def _draw_line(chance: Chance, paper: Paper, frame: Frame, series: Series) -> None:
    unit = max(paper.canvas.shrink)
    radius = (chance.rng.uniform(2.6, 4.2) if chance.is_hard() else 4) * unit
    thick = (chance.rng.uniform(1.8, 2.8) if chance.is_hard() else 2) * unit
    points = [frame.point(place, value) for place, value in enumerate(series.table.values)]
    mask = Image.new("L", (_SCALE * paper.canvas.width, _SCALE * paper.canvas.height))
    pen = ImageDraw.Draw(mask)
    pen.line([(_SCALE * x, _SCALE * y) for x, y in points], 255, round(_SCALE * thick))
    for x, y in points:
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse([_SCALE * edge for edge in box], fill=255)
        paper.mark("part:point", box)
        paper.mark(f"colour:{series.colour}", box)
    paper.image.paste(paper.fills[series.colour], (0, 0), mask.reduce(_SCALE))


class Curves:
    """One or two lines through marked points; the answer is a label, a number or a word."""

    name = "curves"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a chart; a higher level has more lines, points and kinds of labels."""
        rng = chance.rng
        num = rng.randint(3, 6) if chance.is_hard() else 3
        num_lines = 2 if chance.is_hard() and rng.random() < 0.45 else 1
        while True:
            chance = chance.begin_again()
            paper = Paper(chance, choose_single_canvas(chance))
            lines = _choose_lines(chance, paper, num, num_lines)
            table = lines[0].table
            title = choose_title(chance)
            top = write_title(paper, title)
            for series in lines:
                paper.fills[series.colour] = vary_colour(chance, series.colour)
            if lines[0].label:
                top = _draw_legend(paper, lines, top)
            style = AxisStyle(has_grid=not chance.is_hard() or rng.random() < 0.65)
            frame = Frame(paper, table, style, top, paper.canvas.width)
            if frame.is_legible:
                break
        draw_axes(paper, frame, table, style)
        for place, label in enumerate(table.labels):
            base = frame.bottom + round(4 * frame.unit[1]) + paper.cap
            paper.write(label, frame.left + (place + 0.5) * frame.slot, base, 0.5)
        for series in lines:
            _draw_line(chance, paper, frame, series)
        turns = ask_lines(chance, lines)
        if title:
            turns.append(chance.turn(TITLE_WORDINGS, title, "title"))
        return Drawing(
            self.name,
            (paper.image,),
            choose_turns(rng, turns),
            (tuple(paper.marks),),
            unseen=chance.unseen,
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the label, the word or exactly the number."""
        return score_chart(turn, answer)
