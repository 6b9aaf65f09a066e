"""Bar charts, upright or lying, with an axis, printed values, colours or a legend.

What they show is left to :mod:`internvl35.data.synthetic.charts.chart_tables`, what is asked to
:mod:`internvl35.data.synthetic.charts.chart_questions`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.data.synthetic.canvas import choose_single_canvas
from internvl35.data.synthetic.charts.chart_frame import AxisStyle, Frame, draw_axes, draw_legend
from internvl35.data.synthetic.charts.chart_questions import (
    TITLE_WORDINGS,
    ask_colours,
    ask_comparison,
    ask_count,
    ask_labels,
    ask_values,
    choose_turns,
    score_chart,
)
from internvl35.data.synthetic.charts.chart_tables import (
    Table,
    chart_colours,
    choose_labels,
    choose_scale,
    choose_title,
    choose_values,
    write_title,
)
from internvl35.data.synthetic.colours import Colour, vary_colour
from internvl35.data.synthetic.drawing import Chance, Drawing, Turn
from internvl35.data.synthetic.printed.paper import Paper

_PLAIN_COLOURS = ((90, 90, 90), (60, 110, 150), (140, 100, 70), (90, 130, 110), (120, 110, 160))


@dataclass(frozen=True)
class _Style:
    """How a chart looks."""

    axes: AxisStyle
    colours: tuple[str, ...]
    """Names, one a bar; empty if all bars have the same unnamed colour."""
    width: float
    """Of a bar, as a share of the room for it."""

    @property
    def has_legend(self) -> bool:
        """Whether labels stand in a legend instead of below the bars."""
        return not self.axes.has_labels


def _choose_style(chance: Chance, paper: Paper, num: int) -> _Style:
    rng = chance.rng
    if not chance.is_hard():
        return _Style(AxisStyle(has_values=rng.random() < 0.5), (), 0.7)
    colours: tuple[str, ...] = ()
    if rng.random() < 0.5:
        colours = tuple(rng.sample(chart_colours(paper), num))
        if rng.random() < 0.2:
            colours = (colours[0],) * num
    has_legend = len(set(colours)) > 1 and num <= 4 and rng.random() < 0.4
    has_values = rng.random() < 0.5
    axes = AxisStyle(
        is_lying=rng.random() < 0.4,
        has_labels=not has_legend,
        has_values=has_values,
        has_ticks=not has_values or rng.random() < 0.5,
        has_grid=rng.random() < 0.5,
    )
    return _Style(axes, colours, rng.uniform(0.55, 0.85))


def _choose_table(chance: Chance, num: int, style: _Style) -> Table:
    scale = choose_scale(chance, num)
    is_read = not style.axes.has_values or chance.rng.random() < 0.6 or scale.top < 20
    values = choose_values(chance.rng, scale, num, is_read=is_read)
    return Table(choose_labels(chance, num), values, scale, is_read)


def _draw_bars(
    paper: Paper, frame: Frame, table: Table, style: _Style, fills: list[Colour]
) -> None:
    gap_x, gap_y = (round(4 * unit) for unit in frame.unit)
    names = style.colours or ("",) * len(fills)
    rows = zip(table.labels, table.values, fills, names, strict=True)
    for place, (label, value, fill, name) in enumerate(rows):
        box = frame.bar(place, value, style.width)
        left, top, right, bottom = box
        paper.fill(box, fill)
        paper.mark("part:bar", box)
        if name:
            paper.mark(f"colour:{name}", box)
        if style.axes.has_values:
            if style.axes.is_lying:
                paper.write(str(value), right + gap_x, (top + bottom + paper.cap) / 2)
            else:
                paper.write(str(value), (left + right) / 2, top - gap_y, 0.5)
        if not style.has_legend:
            if style.axes.is_lying:
                paper.write(label, frame.left - gap_x, (top + bottom + paper.cap) / 2, 1)
            else:
                base = frame.bottom + gap_y + paper.cap
                paper.write(label, frame.left + (place + 0.5) * frame.slot, base, 0.5)


def _ask(chance: Chance, table: Table, style: _Style, title: str) -> tuple[Turn, ...]:
    turns = [
        *ask_labels(chance, table, "bar"),
        *ask_values(chance, table, "bar"),
        ask_comparison(chance, table),
        ask_count(chance, table, "bars"),
    ]
    if len(set(style.colours)) > 1:
        turns += ask_colours(chance, table, list(style.colours), "bar")
    if title:
        turns.append(chance.turn(TITLE_WORDINGS, title, "title"))
    return choose_turns(chance.rng, turns)


class Bars:
    """Three to six bars; the answer is a label, a number, a colour, or yes or no."""

    name = "bars"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a chart; a higher level has more kinds of labels, axes and colours."""
        rng = chance.rng
        num = rng.randint(3, 6) if chance.is_hard() else rng.randint(3, 4)
        while True:
            chance = chance.begin_again()
            paper = Paper(chance, choose_single_canvas(chance))
            style = _choose_style(chance, paper, num)
            table = _choose_table(chance, num, style)
            title = choose_title(chance)
            top = write_title(paper, title)
            plain = rng.choice(_PLAIN_COLOURS)
            fills = [vary_colour(chance, name) for name in style.colours] or [plain] * num
            right: float = paper.canvas.width
            if style.has_legend:
                right = draw_legend(paper, table.labels, fills, top)
            frame = Frame(paper, table, style.axes, top, right)
            if frame.is_legible:
                break
        draw_axes(paper, frame, table, style.axes)
        _draw_bars(paper, frame, table, style, fills)
        turns = _ask(chance, table, style, title)
        return Drawing(
            self.name, (paper.image,), turns, (tuple(paper.marks),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the label, the word or exactly the number."""
        return score_chart(turn, answer)
