"""Bar charts, upright or lying, with an axis, printed values, colours or a legend.

What they show is left to :mod:`internvl35.data.synthetic.charts`, what is asked to
:mod:`internvl35.data.synthetic.chart_questions`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.data.synthetic.chart_questions import (
    TITLE_WORDINGS,
    ask_colours,
    ask_comparison,
    ask_count,
    ask_labels,
    ask_values,
    choose_turns,
    score_chart,
)
from internvl35.data.synthetic.charts import (
    Table,
    chart_colours,
    choose_labels,
    choose_scale,
    choose_title,
    choose_values,
    write_title,
)
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn
from internvl35.data.synthetic.fonts import Colour
from internvl35.data.synthetic.paper import Paper
from internvl35.data.synthetic.scene import choose_single_canvas, vary_colour

_PLAIN_COLOURS = ((90, 90, 90), (60, 110, 150), (140, 100, 70), (90, 130, 110), (120, 110, 160))


@dataclass(frozen=True)
class _Style:
    """How a chart looks."""

    is_lying: bool
    colours: tuple[str, ...]
    """Names, one a bar; empty if all bars have the same unnamed colour."""
    has_legend: bool
    """Labels stand in a legend instead of below the bars."""
    has_values: bool
    """Values are printed at the ends of the bars."""
    has_ticks: bool
    """The axis has numbers."""
    has_grid: bool
    width: float
    """Of a bar, as a share of the room for it."""


def _choose_style(chance: Chance, paper: Paper, num: int) -> _Style:
    rng = chance.rng
    if not chance.is_hard():
        return _Style(False, (), False, rng.random() < 0.5, True, True, 0.7)
    colours: tuple[str, ...] = ()
    if rng.random() < 0.5:
        colours = tuple(rng.sample(chart_colours(paper), num))
        if rng.random() < 0.2:
            colours = (colours[0],) * num
    has_values = rng.random() < 0.5
    return _Style(
        is_lying=rng.random() < 0.4,
        colours=colours,
        has_legend=len(set(colours)) > 1 and num <= 4 and rng.random() < 0.4,
        has_values=has_values,
        has_ticks=not has_values or rng.random() < 0.5,
        has_grid=rng.random() < 0.5,
        width=rng.uniform(0.55, 0.85),
    )


def _choose_table(chance: Chance, num: int, style: _Style) -> Table:
    scale = choose_scale(chance, num)
    is_read = not style.has_values or chance.rng.random() < 0.6 or scale.top < 20
    values = choose_values(chance.rng, scale, num, is_read=is_read)
    return Table(choose_labels(chance, num), values, scale, is_read)


def _draw_legend(paper: Paper, table: Table, fills: list[Colour], top: int) -> float:
    """Draw labels with their colours at the right; the left edge is returned."""
    unit = max(paper.canvas.shrink)
    swatch, gap = paper.cap + round(unit), round(4 * unit)
    right = paper.canvas.width - gap
    left = right - swatch - gap - paper.widest(table.labels)
    step = round(2.1 * paper.cap)
    for place, (label, fill) in enumerate(zip(table.labels, fills, strict=True)):
        y = top + gap + place * step
        paper.fill((left, y, left + swatch, y + swatch), fill)
        paper.write(label, left + swatch + gap, y + swatch)
    bottom = top + gap + (len(fills) - 1) * step + swatch
    paper.mark("part:legend", (left - 2, top + gap - 2, right + 2, bottom + 3))
    return left


class _Frame:
    """Where the axes stand and how values become pixels."""

    def __init__(self, paper: Paper, table: Table, style: _Style, top: int, right: float) -> None:
        across, down = paper.canvas.shrink
        ticks = [str(tick) for tick in table.scale.ticks] if style.has_ticks else []
        labels = () if style.has_legend else table.labels
        values = [str(value) for value in table.values] if style.has_values else []
        gap_x, gap_y = round(4 * across), round(4 * down)
        line = paper.cap + 2 * gap_y
        self.is_lying = style.is_lying
        if style.is_lying:
            end_room = max(paper.widest(values) + gap_x, paper.widest(ticks) / 2)
            self.left = gap_x + (paper.widest(labels) + gap_x if labels else 0)
            self.right = right - gap_x - end_room
            self.top, self.bottom = top, paper.canvas.height - (line if ticks else gap_y)
            self.slot = (self.bottom - self.top) / len(table.values)
            self.length = self.right - self.left
        else:
            self.left = gap_x + (paper.widest(ticks) + gap_x if ticks else 0)
            self.right = right - gap_x
            self.top = top + (line if values else paper.cap // 2 + gap_y)
            self.bottom = paper.canvas.height - (line if labels else 2 * gap_y)
            self.slot = (self.right - self.left) / len(table.values)
            self.length = self.bottom - self.top
        self.least_slot = (
            max(13 * down, paper.cap + 5 * down)
            if style.is_lying
            else max(14 * across, paper.widest(labels) + 5 * across, paper.widest(values) + across)
        )
        self.pixels_per_unit = self.length / table.scale.top
        self.unit = (across, down)
        shortest = 1.55 * (paper.widest(ticks) if style.is_lying else paper.cap)
        is_crowded = bool(ticks) and self.length / (len(ticks) - 1) < shortest
        self.is_legible = (
            self.slot >= self.least_slot
            and self.length >= 80 * (across if style.is_lying else down)
            and not is_crowded
        )

    def bar(self, place: int, value: int, width: float) -> Box:
        """Rectangle of a bar, in whole pixels."""
        low, high = (round((place + 0.5 + side * width / 2) * self.slot) for side in (-1, 1))
        end = round(value * self.pixels_per_unit)
        if self.is_lying:
            return (round(self.left), self.top + low, round(self.left) + end, self.top + high)
        left, bottom = round(self.left), round(self.bottom)
        return (left + low, bottom - end, left + high, bottom)


def _draw_axes(paper: Paper, frame: _Frame, table: Table, style: _Style) -> None:
    left, right, top, bottom = (
        round(edge) for edge in (frame.left, frame.right, frame.top, frame.bottom)
    )
    gap_x, gap_y = (round(4 * unit) for unit in frame.unit)
    for tick in table.scale.ticks if style.has_ticks or style.has_grid else ():
        at = round(tick * frame.pixels_per_unit)
        line = (left + at, top, left + at, bottom) if frame.is_lying else ()
        line = line or (left, bottom - at, right, bottom - at)
        if style.has_grid:
            paper.pen.line(line, paper.faint)
        if not style.has_ticks:
            continue
        if frame.is_lying:
            paper.pen.line((left + at, bottom, left + at, bottom + gap_y // 2), paper.ink)
            paper.write(str(tick), left + at, bottom + gap_y + paper.cap, 0.5)
        else:
            paper.pen.line((left - gap_x // 2, bottom - at, left, bottom - at), paper.ink)
            paper.write(str(tick), left - gap_x, bottom - at + paper.cap / 2, 1)
    if style.is_lying or style.has_ticks:
        paper.pen.line((left, top, left, bottom), paper.ink)
    if not style.is_lying or style.has_ticks:
        paper.pen.line((left, bottom, right, bottom), paper.ink)
    if style.has_ticks:
        strip = (left, bottom - 2, right, bottom + gap_y + paper.cap + 2)
        paper.mark("part:axis", strip if frame.is_lying else (0, top, left + 2, bottom))


def _draw_bars(
    paper: Paper, frame: _Frame, table: Table, style: _Style, fills: list[Colour]
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
        if style.has_values:
            if style.is_lying:
                paper.write(str(value), right + gap_x, (top + bottom + paper.cap) / 2)
            else:
                paper.write(str(value), (left + right) / 2, top - gap_y / 2, 0.5)
        if not style.has_legend:
            if style.is_lying:
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
            paper = Paper(chance, choose_single_canvas(chance))
            style = _choose_style(chance, paper, num)
            table = _choose_table(chance, num, style)
            title = choose_title(chance, paper)
            top = write_title(paper, title)
            plain = rng.choice(_PLAIN_COLOURS)
            fills = [vary_colour(chance, name) for name in style.colours] or [plain] * num
            right: float = paper.canvas.width
            if style.has_legend:
                right = _draw_legend(paper, table, fills, top)
            frame = _Frame(paper, table, style, top, right)
            if frame.is_legible:
                break
        _draw_axes(paper, frame, table, style)
        _draw_bars(paper, frame, table, style, fills)
        turns = _ask(chance, table, style, title)
        return Drawing(
            self.name, (paper.image,), turns, (tuple(paper.marks),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the label, the word or exactly the number."""
        return score_chart(turn, answer)
