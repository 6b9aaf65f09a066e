"""Answers about bars, against bars measured in the pixels and print read off the marks."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from seen_print import Print, fit_axis, read_print, read_question

from internvl35.data.synthetic import Drawing, Turn, draw
from internvl35.data.synthetic.charts import chart_questions
from internvl35.data.synthetic.charts.bar_charts import Bars

NUM = 100


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw("bars", "test", index) for index in range(NUM)]


class Chart:
    """A bar chart as seen."""

    def __init__(self, drawing: Drawing) -> None:
        (image,), (marks,) = drawing.images, drawing.marks
        self.pixels = np.asarray(image).astype(int)
        self.boxes = [mark.box for mark in marks if mark.label == "part:bar"]
        self.is_lying = len({box[3] for box in self.boxes}) > 1
        self.prints = read_print(marks)
        self.lengths = [self._measure(box) for box in self.boxes]
        legends = [mark.box for mark in marks if mark.label == "part:legend"]
        self.labels = [self._label(box, legends) for box in self.boxes]

    def _measure(self, box: tuple[float, float, float, float]) -> int:
        """Pixels of the bar's colour along its middle, from where it starts."""
        left, top, right, bottom = (int(edge) for edge in box)
        x, y = (left + right) // 2, (top + bottom) // 2
        line = self.pixels[y, left:] if self.is_lying else self.pixels[bottom - 1 :: -1, x]
        is_bar = np.abs(line - line[1]).max(axis=1) < 12
        return 1 + int(np.argmin(is_bar[1:])) if not is_bar[1:].all() else len(line)

    def _label(self, box: tuple[float, float, float, float], legends: list) -> str:
        left, top, right, bottom = box
        if legends:
            ((x0, y0, x1, y1),) = legends
            colour = self.pixels[int(bottom) - 3, int(left) + 3]
            for text in self.prints:
                if x0 < text.middle[0] < x1 and y0 < text.middle[1] < y1:
                    swatch = self.pixels[int(text.middle[1]), int(x0) + 6]
                    if np.abs(swatch - colour).max() < 4:
                        return text.text
            raise AssertionError("no label in the legend")
        if self.is_lying:
            near = [t for t in self.prints if t.box[2] < left and top < t.middle[1] < bottom]
        else:
            x = (left + right) / 2
            near = [t for t in self.prints if t.box[1] >= bottom and abs(t.middle[0] - x) < 5]
        assert len(near) == 1
        return near[0].text

    def values(self) -> list[float]:
        """Numbers at the ends of the bars, else by the axis."""
        printed = [self._end_number(box) for box in self.boxes]
        if all(printed):
            return [float(text.text) for text in printed if text]
        side = 0 if self.is_lying else 1
        first = self.boxes[0]
        ticks = [
            (text.middle[side], float(text.text))
            for text in self.prints
            if text.text.isdigit()
            and (text.box[1] > self.boxes[-1][3] if self.is_lying else text.box[2] < first[0])
        ]
        slope, start = fit_axis(ticks)
        ends = [box[2] if self.is_lying else box[1] for box in self.boxes]
        return [slope * end + start for end in ends]

    def _end_number(self, box: tuple[float, float, float, float]) -> Print | None:
        left, top, right, bottom = box
        for text in self.prints:
            x, y = text.middle
            if not text.text.isdigit():
                continue
            if self.is_lying and top < y < bottom and right <= text.box[0] < right + 12:
                return text
            if not self.is_lying and left - 6 < x < right + 6 and -16 < text.box[3] - top <= 0:
                return text
        return None


def expected(turn: Turn, chart: Chart) -> str | float:
    by_label = dict(zip(chart.labels, chart.lengths, strict=True))
    if turn.kind == "largest":
        return max(by_label, key=by_label.__getitem__)
    if turn.kind == "smallest":
        return min(by_label, key=by_label.__getitem__)
    if turn.kind == "count":
        return len(chart.boxes)
    if turn.kind == "compare":
        parts = read_question(chart_questions.COMPARE_WORDINGS, turn.question)
        return "yes" if by_label[parts["label"]] > by_label[parts["other"]] else "no"
    values = dict(zip(chart.labels, chart.values(), strict=True))
    if turn.kind == "value":
        return values[read_question(chart_questions.VALUE_WORDINGS, turn.question)["label"]]
    if turn.kind == "which":
        wanted = float(read_question(chart_questions.WHICH_WORDINGS, turn.question)["value"])
        return min(values, key=lambda label: abs(values[label] - wanted))
    assert turn.kind == "difference"
    spread = max(values.values()) - min(values.values())
    if turn.question in (
        *chart_questions.SPREAD_WORDINGS.seen,
        *chart_questions.SPREAD_WORDINGS.kept,
    ):
        return spread
    parts = read_question(chart_questions.DIFFERENCE_WORDINGS, turn.question)
    return abs(values[parts["label"]] - values[parts["other"]])


def test_answers_are_what_the_pixels_say(drawings: list[Drawing]) -> None:
    seen: Counter[str] = Counter()
    for drawing in drawings:
        chart = Chart(drawing)
        for turn in drawing.turns:
            if turn.kind in ("colour", "owner", "title"):
                continue
            found = expected(turn, chart)
            if isinstance(found, str):
                assert turn.answer == found, turn
            else:
                top = max(chart.values())
                assert float(turn.answer) == pytest.approx(found, abs=0.03 * top + 0.01), turn
            seen[turn.kind] += 1
    assert min(seen.values()) > 20
    assert len(seen) == 7


def test_bars_are_as_long_as_marked_and_differ_visibly(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        chart = Chart(drawing)
        for box, length in zip(chart.boxes, chart.lengths, strict=True):
            marked = box[2] - box[0] if chart.is_lying else box[3] - box[1]
            assert length == pytest.approx(marked, abs=1.5)
        ranked = sorted(chart.lengths)
        gaps = [high - low for low, high in pairwise(ranked)]
        assert min(gaps) >= 6 * min(drawing.images[0].size) / 192


def test_colours_are_those_of_the_bars_and_each_has_one_label(drawings: list[Drawing]) -> None:
    num = 0
    for drawing in drawings:
        chart = Chart(drawing)
        named = {
            mark.box: mark.label[7:]
            for mark in drawing.marks[0]
            if mark.label.startswith("colour:")
        }
        colours = {
            label: named.get(box) for label, box in zip(chart.labels, chart.boxes, strict=True)
        }
        for turn in drawing.turns:
            if turn.kind == "colour":
                parts = read_question(chart_questions.COLOUR_WORDINGS, turn.question)
                assert turn.answer == colours[parts["label"]]
            elif turn.kind == "owner":
                colour = read_question(chart_questions.OWNER_WORDINGS, turn.question)["colour"]
                assert [name for name in colours if colours[name] == colour] == [turn.answer]
            num += turn.kind in ("colour", "owner")
    assert num > 30


def test_print_is_high_enough_to_be_read_in_one_tile(drawings: list[Drawing]) -> None:
    for drawing in drawings:
        shrink = drawing.images[0].height / 192
        for mark in drawing.marks[0]:
            if mark.label in ("glyph:A", "glyph:M", "glyph:T", "glyph:8", "glyph:5"):
                assert (mark.box[3] - mark.box[1]) / shrink >= 8.4


def test_only_the_exact_number_or_the_label_is_right() -> None:
    family = Bars()
    number, label = Turn("?", "30", "value"), Turn("?", "Jan", "largest")
    assert family.score(number, "It is 30.")["right"] == 1
    assert family.score(number, "30 or 40")["right"] == 0
    assert family.score(number, "31")["right"] == 0
    assert family.score(label, "jan.")["right"] == 1
    assert family.score(label, "Jun")["right"] == 0


def test_easy_charts_are_upright_with_letters_on_white() -> None:
    for index in range(30):
        drawing = draw("bars", "train", index, 0.0)
        chart = Chart(drawing)
        assert drawing.images[0].getpixel((0, 0)) == (255, 255, 255)
        assert not chart.is_lying
        assert len(chart.boxes) <= 4
        assert all(len(label) == 1 for label in chart.labels)


def test_answers_are_spread() -> None:
    answers: dict[str, Counter[str]] = {}
    for index in range(300):
        for turn in draw("bars", "train", index).turns:
            answers.setdefault(turn.kind, Counter())[turn.answer] += 1
    for kind, most in {
        "compare": 0.6, "count": 0.35, "value": 0.15, "largest": 0.08, "colour": 0.25,
        "difference": 0.2,
    }.items():  # fmt: skip
        counts = answers[kind]
        assert counts.most_common(1)[0][1] <= most * counts.total(), kind
