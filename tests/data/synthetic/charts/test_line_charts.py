"""Answers about lines, against points found in the pixels and print read off the marks."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from seen_print import fit_axis, read_print, read_question

from internvl35.data.synthetic import Drawing, Turn, draw
from internvl35.data.synthetic.charts import chart_questions, line_questions
from internvl35.data.synthetic.charts.line_charts import Curves
from internvl35.data.synthetic.colours import COLOURS

NUM = 100


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw("curves", "test", index) for index in range(NUM)]


class Chart:
    """A line chart as seen: values by colour and label."""

    def __init__(self, drawing: Drawing) -> None:
        (image,), (marks,) = drawing.images, drawing.marks
        pixels = np.asarray(image).astype(int)
        points = [mark.box for mark in marks if mark.label == "part:point"]
        prints = read_print(marks)
        left = min(box[0] for box in points)
        ticks = [
            (text.middle[1], float(text.text))
            for text in prints
            if text.text.isdigit() and text.box[2] < left - 3
        ]
        ticks.sort(key=lambda tick: tick[1])  # from 0 at the axis
        slope, start = fit_axis(ticks)
        self.top = ticks[-1][1]
        letters = [
            (mark.box[0], (mark.box[0] + mark.box[2]) / 2, mark.label[6:])
            for mark in marks
            if mark.label.startswith("glyph:") and mark.box[3] > ticks[0][0] + 6
        ]
        places = sorted({(box[0] + box[2]) / 2 for box in points})
        room = min(high - low for low, high in pairwise(places)) / 2
        self.labels = [
            "".join(letter for _, x, letter in sorted(letters) if abs(x - place) < room)
            for place in places
        ]
        self.lines: dict[str, dict[str, float]] = {}
        for box in points:
            x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            shade = pixels[int(y), int(x)]
            colour = min(COLOURS, key=lambda name, at=shade: int(np.abs(at - COLOURS[name]).sum()))
            label = self.labels[int(np.abs(np.array(places) - x).argmin())]
            self.lines.setdefault(colour, {})[label] = slope * y + start
        self.names = self._read_legend(drawing, prints, pixels)

    def _read_legend(self, drawing: Drawing, prints: list, pixels: np.ndarray) -> dict[str, str]:
        legends = [mark.box for mark in drawing.marks[0] if mark.label == "part:legend"]
        names = {}
        for x0, y0, x1, y1 in legends:
            for text in prints:
                if x0 < text.middle[0] < x1 and y0 < text.middle[1] < y1:
                    column = pixels[int(y0) : int(y1), int(text.box[0]) - 9]
                    swatch = column[np.abs(column - pixels[0, 0]).sum(axis=1).argmax()]
                    colour = min(self.lines, key=lambda name: abs(swatch - COLOURS[name]).sum())
                    names[text.text] = colour
        return names

    def line(self, name: str) -> dict[str, float]:
        return self.lines[self.colour(name)]

    def colour(self, name: str) -> str:
        if name == "the line":
            (colour,) = self.lines
            return colour
        words = name.split()
        return self.names[words[-1]] if words[1] == "line" else words[1]


def expected(turn: Turn, chart: Chart) -> str | float:
    asked = {
        "largest": line_questions.HIGHEST_WORDINGS, "smallest": line_questions.LOWEST_WORDINGS,
        "value": line_questions.VALUE_WORDINGS, "trend": line_questions.TREND_WORDINGS,
        "above": line_questions.ABOVE_WORDINGS, "colour": line_questions.COLOUR_WORDINGS,
        "compare": chart_questions.COMPARE_WORDINGS, "count": chart_questions.COUNT_WORDINGS,
    }[turn.kind]  # fmt: skip
    parts = read_question(asked, turn.question, r"the line of \w+|the \w+ line|the line|\w+")
    if turn.kind == "count":
        return len(chart.lines if parts["parts"] == "lines" else chart.labels)
    if turn.kind == "colour":
        return chart.colour(parts["line"])
    if turn.kind == "compare":
        (line,) = chart.lines.values()
        return "yes" if line[parts["label"]] > line[parts["other"]] else "no"
    line = chart.line(parts["line"])
    if turn.kind == "above":
        other = chart.line(parts["other"])
        return "yes" if line[parts["label"]] > other[parts["label"]] else "no"
    if turn.kind == "trend":
        return "up" if line[parts["label"]] < line[parts["other"]] else "down"
    if turn.kind == "value":
        return line[parts["label"]]
    return (max if turn.kind == "largest" else min)(line, key=line.__getitem__)


def test_answers_are_what_the_pixels_say(drawings: list[Drawing]) -> None:
    seen: Counter[str] = Counter()
    for drawing in drawings:
        chart = Chart(drawing)
        for turn in drawing.turns:
            if turn.kind == "title":
                continue
            found = expected(turn, chart)
            if isinstance(found, str):
                assert turn.answer == found, turn
            else:
                assert float(turn.answer) == pytest.approx(found, abs=0.03 * chart.top + 0.01)
            seen[turn.kind] += 1
    assert len(seen) == 8
    assert min(seen.values()) > 10


def test_points_of_a_line_differ_visibly_and_lines_never_meet_in_a_point(
    drawings: list[Drawing],
) -> None:
    for drawing in drawings:
        chart = Chart(drawing)
        lines = list(chart.lines.values())
        for line in lines:
            ranked = sorted(line.values())
            assert min(high - low for low, high in pairwise(ranked)) > 0.07 * chart.top
        if len(lines) == 2:
            one, two = lines
            assert min(abs(one[label] - two[label]) for label in one) > 0.07 * chart.top


def test_a_trend_is_asked_between_neighbours_from_left_to_right(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        labels = Chart(drawing).labels
        for turn in drawing.turns:
            if turn.kind == "trend":
                asked = line_questions.TREND_WORDINGS
                parts = read_question(asked, turn.question, r"the line of \w+|the \w+ line|[\w ]+")
                assert labels.index(parts["other"]) == labels.index(parts["label"]) + 1


def test_another_answer_is_wrong() -> None:
    family = Curves()
    assert family.score(Turn("?", "up", "trend"), "Up.")["right"] == 1
    assert family.score(Turn("?", "up", "trend"), "down")["right"] == 0
    assert family.score(Turn("?", "2019", "largest"), "2018")["right"] == 0
    assert family.score(Turn("?", "15", "value"), "20")["right"] == 0


def test_easy_charts_have_one_line_and_three_points() -> None:
    for index in range(30):
        chart = Chart(draw("curves", "train", index, 0.0))
        assert len(chart.lines) == 1
        assert len(chart.labels) == 3


def test_answers_are_spread() -> None:
    answers: dict[str, Counter[str]] = {}
    for index in range(300):
        for turn in draw("curves", "train", index).turns:
            answers.setdefault(turn.kind, Counter())[turn.answer] += 1
    for kind, most in {
        "compare": 0.63, "above": 0.65, "trend": 0.6, "count": 0.38, "value": 0.15, "largest": 0.1,
    }.items():  # fmt: skip
        counts = answers[kind]
        assert counts.most_common(1)[0][1] <= most * counts.total(), kind
