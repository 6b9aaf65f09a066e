"""Answers about slices, against the areas of their colours in the pixels."""

from collections import Counter

import numpy as np
import pytest
from seen_print import read_print, read_question

from internvl35.data.synthetic import Drawing, Turn, draw
from internvl35.data.synthetic.charts import chart_questions
from internvl35.data.synthetic.charts.pie_charts import Pies
from internvl35.data.synthetic.colours import COLOURS

NUM = 80


def commonest(pixels: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Colour of most pixels in a box that are neither print nor background."""
    left, top, right, bottom = (round(edge) for edge in box)
    shades, counts = np.unique(
        pixels[top:bottom, left:right].reshape(-1, 3), axis=0, return_counts=True
    )
    is_plain = [len({*shade, *(0, 255)}) > 2 for shade in shades.tolist()]
    counts[~np.array(is_plain) | (shades == pixels[0, 0]).all(axis=1)] = 0
    return shades[counts.argmax()]


class Pie:
    """A pie as seen: the label, the share and the name of each colour."""

    def __init__(self, drawing: Drawing) -> None:
        (image,), (marks,) = drawing.images, drawing.marks
        pixels = np.asarray(image).astype(int)
        slices = [mark.box for mark in marks if mark.label == "part:slice"]
        legends = [mark.box for mark in marks if mark.label == "part:legend"]
        shades = np.array([commonest(pixels, box) for box in slices])
        self.names = [
            min(COLOURS, key=lambda name, at=shade: int(np.abs(at - COLOURS[name]).sum()))
            for shade in shades
        ]
        distances = np.abs(pixels[:, :, None] - shades).max(axis=3)  # (height, width, slices)
        owner = np.where(distances.min(axis=2) < 4, distances.argmin(axis=2), -1)
        for x0, y0, x1, y1 in legends:
            owner[int(y0) : int(y1), int(x0) : int(x1)] = -1
        areas = np.bincount(owner[owner >= 0], minlength=len(slices))
        self.shares = 100 * areas / areas.sum()
        ys, xs = np.nonzero(owner >= 0)
        self.middle = ((xs.min() + xs.max()) / 2, (ys.min() + ys.max()) / 2)
        self.labels = [""] * len(slices)
        self.printed: dict[int, str] = {}
        title = [mark.box for mark in marks if mark.label == "part:title"]
        for text in read_print(marks, blank=0.8):
            if title and text.box[1] < title[0][3] and text.box[3] <= title[0][3] + 3:
                continue
            if legends and legends[0][0] < text.middle[0] and text.box[3] <= legends[0][3] + 4:
                swatch = pixels[int(text.middle[1]), int(legends[0][0]) + 6]
                place = int(np.abs(shades - swatch).sum(axis=1).argmin())
            else:
                place = self._slice_at(owner, text.box)
            if text.text.endswith("%"):
                self.printed[place] = text.text
            else:
                self.labels[place] = text.text

    def _slice_at(self, owner: np.ndarray, box: tuple[float, float, float, float]) -> int:
        """The slice around some print, or the first one on the way to the middle."""
        height, width = owner.shape
        x, y = max(0, round(box[0]) - 2), round((box[1] + box[3]) / 2)
        if owner[y, x] >= 0:
            return int(owner[y, x])
        start = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
        for step in np.linspace(0, 1, 200):
            at_x, at_y = start + step * (np.array(self.middle) - start)
            found = int(owner[min(height - 1, round(at_y)), min(width - 1, round(at_x))])
            if found >= 0:
                return found
        raise AssertionError("print that belongs to no slice")


@pytest.fixture(scope="module")
def pies() -> list[tuple[Drawing, Pie]]:
    drawings = [draw("pies", "test", index) for index in range(NUM)]
    return [(drawing, Pie(drawing)) for drawing in drawings]


def expected(turn: Turn, pie: Pie) -> str:
    areas = dict(zip(pie.labels, pie.shares, strict=True))
    if turn.kind == "largest":
        return max(areas, key=areas.__getitem__)
    if turn.kind == "smallest":
        return min(areas, key=areas.__getitem__)
    asked = {
        "compare": chart_questions.COMPARE_WORDINGS, "count": chart_questions.COUNT_WORDINGS,
        "share": chart_questions.SHARE_WORDINGS, "which": chart_questions.WHICH_WORDINGS,
        "colour": chart_questions.COLOUR_WORDINGS, "owner": chart_questions.OWNER_WORDINGS,
    }[turn.kind]  # fmt: skip
    parts = read_question(asked, turn.question, r"\w+%?")
    if turn.kind == "compare":
        return "yes" if areas[parts["label"]] > areas[parts["other"]] else "no"
    if turn.kind == "count":
        return str(len(pie.labels))
    if turn.kind == "share":
        return pie.printed[pie.labels.index(parts["label"])]
    if turn.kind == "colour":
        return pie.names[pie.labels.index(parts["label"])]
    if turn.kind == "owner":
        return pie.labels[pie.names.index(parts["colour"])]
    (place,) = (at for at, share in pie.printed.items() if share == parts["value"])
    return pie.labels[place]


def test_answers_are_what_the_pixels_say(pies: list[tuple[Drawing, Pie]]) -> None:
    seen: Counter[str] = Counter()
    for drawing, pie in pies:
        for turn in drawing.turns:
            if turn.kind != "title":
                assert turn.answer == expected(turn, pie), turn
                seen[turn.kind] += 1
    assert len(seen) == 8
    assert min(seen.values()) > 10


def test_printed_shares_are_those_of_the_areas(pies: list[tuple[Drawing, Pie]]) -> None:
    num = 0
    for _, pie in pies:
        for place, share in pie.printed.items():
            assert float(share[:-1]) == pytest.approx(pie.shares[place], abs=6)
            num += 1
    assert num > 80


def test_the_largest_and_the_smallest_slice_stand_out(pies: list[tuple[Drawing, Pie]]) -> None:
    for _, pie in pies:
        ranked = sorted(pie.shares)
        assert ranked[-1] - ranked[-2] > 5
        assert ranked[1] - ranked[0] > 1.5


def test_a_share_is_right_with_and_without_its_sign() -> None:
    family, turn = Pies(), Turn("?", "30%", "share")
    assert family.score(turn, "30")["right"] == 1
    assert family.score(turn, "30%")["right"] == 1
    assert family.score(turn, "35%")["right"] == 0
    assert family.score(Turn("?", "red", "colour"), "blue")["right"] == 0


def test_easy_pies_have_three_slices_with_letters_inside() -> None:
    for index in range(20):
        pie = Pie(draw("pies", "train", index, 0.0))
        assert [len(label) for label in pie.labels] == [1, 1, 1]


def test_answers_are_spread() -> None:
    answers: dict[str, Counter[str]] = {}
    for index in range(250):
        for turn in draw("pies", "train", index).turns:
            answers.setdefault(turn.kind, Counter())[turn.answer] += 1
    for kind, most in {
        "compare": 0.63, "count": 0.45, "largest": 0.1, "colour": 0.22, "share": 0.4,
    }.items():  # fmt: skip
        counts = answers[kind]
        assert counts.most_common(1)[0][1] <= most * counts.total(), kind
