"""Questions about line charts: peaks, values, which line is above, up or down.

Drawing is left to :mod:`internvl35.data.synthetic.charts.line_charts`. No counterpart in the paper;
the request for a single word or phrase is that of ChartQA.
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.data.synthetic.charts.chart_questions import (
    BRIEFLY,
    COMPARE_WORDINGS,
    COUNT_WORDINGS,
)
from internvl35.data.synthetic.charts.chart_tables import Table
from internvl35.data.synthetic.drawing import Chance, Turn, wordings

HIGHEST_WORDINGS = wordings(
    "Where is {line} highest?",
    "At which label is {line} highest?",
    "Where does {line} have its highest point?",
    "Where is the maximum of {line}?",
    "At which label does {line} peak?",
    "Where does {line} reach its peak?",
    "What is the label of the highest point of {line}?",
    "Where is the top point of {line}?",
    "At what label does {line} reach its maximum?",
    "Tell me where {line} is highest.",
    "Where is {line} highest?" + BRIEFLY,
    "At which label is {line} highest?" + BRIEFLY,
    "Where has {line} its largest value?",
)
"""Ways to ask where a line is highest; ``{line}`` is "the red line" or the like."""

LOWEST_WORDINGS = wordings(
    "Where is {line} lowest?",
    "At which label is {line} lowest?",
    "Where does {line} have its lowest point?",
    "Where is the minimum of {line}?",
    "At which label does {line} have its smallest value?",
    "Where does {line} reach its lowest value?",
    "What is the label of the lowest point of {line}?",
    "Where is the bottom point of {line}?",
    "At what label does {line} reach its minimum?",
    "Tell me where {line} is lowest.",
    "Where is {line} lowest?" + BRIEFLY,
    "At which label is {line} lowest?" + BRIEFLY,
    "Where has {line} its smallest value?",
)
"""Ways to ask where a line is lowest."""

VALUE_WORDINGS = wordings(
    "What is the value of {line} at {label}?",
    "What value does {line} have at {label}?",
    "Which value does {line} have at {label}?",
    "How high is {line} at {label}?",
    "Give the value of {line} at {label}.",
    "Read the value of {line} at {label}.",
    "At {label}, what is the value of {line}?",
    "Tell me the value of {line} at {label}.",
    "Which number does {line} have at {label}?",
    "Where does {line} stand at {label}? Give the number.",
    "What is the value of {line} at {label}?" + BRIEFLY,
    "How high is {line} at {label}?" + BRIEFLY,
    "In this chart, what is the value of {line} at {label}?",
)
"""Ways to ask for the value of a line at a label."""

ABOVE_WORDINGS = wordings(
    "Is {line} above {other} at {label}?",
    "Is {line} higher than {other} at {label}?",
    "At {label}, is {line} above {other}?",
    "At {label}, is {line} higher than {other}?",
    "Does {line} run above {other} at {label}?",
    "Is the value of {line} larger than that of {other} at {label}?",
    "Does {line} have a higher value than {other} at {label}?",
    "At {label}, does {line} exceed {other}?",
    "Is {line} above {other} at {label}? Answer yes or no.",
    "Is {line} higher than {other} at {label}? Please answer yes or no.",
    "Is {line} above {other} at {label}?" + BRIEFLY,
    "Does {line} exceed {other} at {label}?",
    "Looking at {label}, is {line} above {other}?",
)
"""Ways to ask which of two lines is above, as yes or no."""

TREND_WORDINGS = wordings(
    "Does {line} go up or down from {label} to {other}?",
    "From {label} to {other}, does {line} go up or down?",
    "Is {line} going up or down from {label} to {other}?",
    "Between {label} and {other}, does {line} go up or down?",
    "Does {line} move up or down between {label} and {other}?",
    "Up or down: where does {line} go from {label} to {other}?",
    "Which way does {line} go from {label} to {other}, up or down?",
    "From {label} to {other}, is {line} going up or down?",
    "Does {line} run up or down from {label} to {other}?",
    "Tell me whether {line} goes up or down from {label} to {other}.",
    "Does {line} go up or down from {label} to {other}?" + BRIEFLY,
    "Say up or down: the way of {line} from {label} to {other}.",
    "In which direction does {line} go from {label} to {other}, up or down?",
)
"""Ways to ask for the way from one label to the next, read from left to right."""

COLOUR_WORDINGS = wordings(
    "What colour is {line}?",
    "What color is {line}?",
    "Which colour does {line} have?",
    "Which color does {line} have?",
    "What is the colour of {line}?",
    "What is the color of {line}?",
    "Name the colour of {line}.",
    "Name the color of {line}.",
    "In which colour is {line} drawn?",
    "In which color is {line} drawn?",
    "Tell me the colour of {line}.",
    "Say the color of {line}.",
    "What color is {line}?" + BRIEFLY,
)
"""Ways to ask for the colour of a line."""


@dataclass(frozen=True)
class Series:
    """A line of a chart."""

    table: Table
    """What it shows."""
    colour: str
    """Name of its colour."""
    label: str
    """What the legend calls it; empty without a legend."""


def ask_lines(chance: Chance, lines: tuple[Series, ...]) -> list[Turn]:
    """Ask about peaks, values, ways, colours, and how lines or labels compare.

    Args:
        chance: of wordings.
        lines: one or two.
    """
    rng = chance.rng
    turns: list[Turn] = []
    for series in lines:
        table, names = series.table, {"line": _name(chance, series, len(lines))}
        place = rng.randrange(len(table.labels))
        turns += [
            chance.turn(HIGHEST_WORDINGS, table.labels[table.largest], "largest", parts=names),
            chance.turn(LOWEST_WORDINGS, table.labels[table.smallest], "smallest", parts=names),
            chance.turn(
                VALUE_WORDINGS,
                str(table.values[place]),
                "value",
                parts={**names, "label": table.labels[place]},
            ),
            _ask_trend(chance, table, names["line"]),
        ]
        if series.label or len(lines) == 1:
            name = f"the line of {series.label}" if series.label else "the line"
            turns.append(
                chance.turn(COLOUR_WORDINGS, series.colour, "colour", parts={"line": name})
            )
    turns.append(_ask_comparison(chance, lines))
    turns += _ask_count(chance, lines)
    return turns


def _name(chance: Chance, series: Series, num: int) -> str:
    if num == 1:
        return "the line"
    if series.label and chance.rng.random() < 0.5:
        return f"the line of {series.label}"
    return f"the {series.colour} line"


def _ask_trend(chance: Chance, table: Table, line: str) -> Turn:
    place = chance.rng.randrange(len(table.labels) - 1)
    is_up = table.values[place] < table.values[place + 1]
    return chance.turn(
        TREND_WORDINGS,
        "up" if is_up else "down",
        "trend",
        parts={"line": line, "label": table.labels[place], "other": table.labels[place + 1]},
    )


def _ask_comparison(chance: Chance, lines: tuple[Series, ...]) -> Turn:
    rng, table = chance.rng, lines[0].table
    is_true = rng.random() < 0.5
    answer = "yes" if is_true else "no"
    if len(lines) == 1:
        one, two = rng.sample(range(len(table.labels)), 2)
        if (table.values[one] > table.values[two]) != is_true:
            one, two = two, one
        parts = {"label": table.labels[one], "other": table.labels[two]}
        return chance.turn(COMPARE_WORDINGS, answer, "compare", parts=parts)
    place = rng.randrange(len(table.labels))
    above, below = lines
    if (above.table.values[place] > below.table.values[place]) != is_true:
        above, below = below, above
    parts = {
        "line": _name(chance, above, 2),
        "other": _name(chance, below, 2),
        "label": table.labels[place],
    }
    return chance.turn(ABOVE_WORDINGS, answer, "above", parts=parts)


def _ask_count(chance: Chance, lines: tuple[Series, ...]) -> list[Turn]:
    # Lines are asked for less often than points, or half of all answers would be 2.
    parts, num = "lines", len(lines)
    if chance.rng.random() < (0.75 if num == 1 else 0.5):
        if num > 1:
            return []
        parts, num = "points", len(lines[0].table.labels)
    return [chance.turn(COUNT_WORDINGS, str(num), "count", parts={"parts": parts})]
