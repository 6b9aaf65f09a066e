"""Axes and legends of charts: where they stand and how values become pixels.

What is drawn between the axes is left to the charts of each kind. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from internvl35.data.synthetic.charts.chart_tables import Table
from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Box
from internvl35.data.synthetic.printed.paper import Paper


@dataclass(frozen=True)
class AxisStyle:
    """What stands at the axes of a chart."""

    is_lying: bool = False
    """Values grow to the right instead of upwards."""
    has_labels: bool = True
    """Labels stand at the axis; else they stand in a legend."""
    has_values: bool = False
    """Values are printed where they are drawn."""
    has_ticks: bool = True
    """The axis has numbers."""
    has_grid: bool = True
    """Lines run through the chart at the numbers."""


def draw_legend(paper: Paper, labels: Sequence[str], fills: Sequence[Colour], top: int) -> float:
    """Draw labels with their colours at the right.

    Args:
        paper: what is drawn on.
        labels: from top to bottom.
        fills: one a label.
        top: pixels from the top of the picture that are taken.

    Returns:
        Left edge of the legend.
    """
    unit = max(paper.canvas.shrink)
    swatch, gap = paper.cap + round(unit), round(4 * unit)
    right = paper.canvas.width - gap
    left = right - swatch - gap - paper.widest(labels)
    step = round(2.1 * paper.cap)
    for place, (label, fill) in enumerate(zip(labels, fills, strict=True)):
        y = top + gap + place * step
        paper.fill((left, y, left + swatch, y + swatch), fill)
        paper.write(label, left + swatch + gap, y + swatch)
    bottom = top + gap + (len(fills) - 1) * step + swatch
    paper.mark("part:legend", (left - 2, top + gap - 2, right + 2, bottom + 3))
    return left


class Frame:
    """Where the axes stand and how values become pixels.

    Args:
        paper: what will be drawn on.
        table: what is to be shown.
        style: what stands at the axes.
        top: pixels from the top of the picture that are taken.
        right: where the room for the chart ends.
    """

    def __init__(
        self, paper: Paper, table: Table, style: AxisStyle, top: int, right: float
    ) -> None:
        """Divide the room."""
        across, down = paper.canvas.shrink
        ticks = [str(tick) for tick in table.scale.ticks] if style.has_ticks else []
        labels = table.labels if style.has_labels else ()
        values = [str(value) for value in table.values] if style.has_values else []
        gap_x, gap_y = round(4 * across), round(4 * down)
        line = paper.cap + 2 * gap_y
        self.is_lying = style.is_lying
        if style.is_lying:
            end_room = max(paper.widest(values) + gap_x, paper.widest(ticks) / 2)
            # Half of the first number stands left of the axis.
            first = math.ceil(paper.widest(ticks[:1]) / 2) + 2
            self.left = gap_x + (paper.widest(labels) + gap_x if labels else max(0, first - gap_x))
            self.right = right - gap_x - end_room
            self.top, self.bottom = top, paper.canvas.height - (line if ticks else gap_y)
            self.slot = (self.bottom - self.top) / len(table.values)
            self.length = self.right - self.left
        else:
            self.left = gap_x + (paper.widest(ticks) + gap_x if ticks else 0)
            self.right = right - gap_x
            self.top = top + (line if values else paper.cap // 2 + gap_y)
            below = paper.cap + gap_y + max(gap_y, paper.drop(labels))
            self.bottom = paper.canvas.height - (below if labels else 2 * gap_y)
            self.slot = (self.right - self.left) / len(table.values)
            self.length = self.bottom - self.top
        self.least_slot = (
            max(13 * down, paper.cap + 5 * down)
            if style.is_lying
            else max(14 * across, paper.widest(labels) + 6 * across, paper.widest(values) + across)
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

    def point(self, place: int, value: int) -> tuple[float, float]:
        """Where a value stands in an upright chart."""
        return (
            self.left + (place + 0.5) * self.slot,
            round(self.bottom) - value * self.pixels_per_unit,
        )

    def bar(self, place: int, value: int, width: float) -> Box:
        """Rectangle of a bar, in whole pixels."""
        low, high = (round((place + 0.5 + side * width / 2) * self.slot) for side in (-1, 1))
        end = round(value * self.pixels_per_unit)
        if self.is_lying:
            return (round(self.left), self.top + low, round(self.left) + end, self.top + high)
        left, bottom = round(self.left), round(self.bottom)
        return (left + low, bottom - end, left + high, bottom)


def draw_axes(paper: Paper, frame: Frame, table: Table, style: AxisStyle) -> None:
    """Draw axes, their numbers and the lines of the grid."""
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
