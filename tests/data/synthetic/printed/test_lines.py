import re
from collections import Counter
from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest

from internvl35.data.synthetic import FAMILIES, Drawing, Mark, Split, Turn, draw
from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.printed.lines import MAX_LINE, MAX_NTH_LINE, line_scores

NUM = 500
NTHS = {
    "first": 0, "top": 0, "upper": 0, "second": 1, "middle": 1, "lower": 1, "third": 2,
    "last": -1, "bottom": -1,
}  # fmt: skip


@cache
def _drawn(split: Split = "test", level: float = 1.0, num: int = NUM) -> tuple[Drawing, ...]:
    return tuple(draw("lines", split, index, level) for index in range(num))


def _spell_lines(marks: Iterable[Mark]) -> list[str]:
    """Lines of print without their blanks; marks come in the order of reading."""
    lines: list[list[Mark]] = []
    for mark in marks:
        is_back = bool(lines) and mark.box[0] < lines[-1][-1].box[0] - 8
        if not lines or is_back:
            lines.append([])
        lines[-1].append(mark)
    return ["".join(mark.label.removeprefix("glyph:") for mark in line) for line in lines]


def _squeeze(text: str) -> str:
    return text.replace(" ", "")


def test_marks_line_by_line_spell_the_answers() -> None:
    num_nth = 0
    for drawing in _drawn():
        lines = _spell_lines(drawing.marks[0])
        for turn in drawing.turns:
            nth = next((word for word in NTHS if f"{word} line" in turn.question), None)
            if turn.kind == "which line":
                num_nth += 1
                assert nth is not None
                assert _squeeze(turn.answer) == lines[NTHS[nth]]
            elif turn.kind == "line count":
                assert turn.answer == str(len(lines))
            else:
                assert len(lines) == 1
            if turn.kind == "line":
                assert _squeeze(turn.answer) == lines[0]
    assert num_nth > 300


def test_lines_stand_below_each_other_and_are_two_or_three() -> None:
    nums: Counter[int] = Counter()
    for drawing in _drawn():
        lines = [turn for turn in drawing.turns if turn.kind == "which line"]
        nums[len(lines)] += 1
        if lines:
            assert len({turn.answer for turn in lines}) == len(lines)
            assert len(_spell_lines(drawing.marks[0])) == len(lines)
    assert set(nums) == {0, 2, 3}
    assert min(nums.values()) > 0.15 * NUM


def test_words_of_a_line_are_found_and_counted_as_it_stands_there() -> None:
    kinds: Counter[str] = Counter()
    for drawing in _drawn():
        answers = {turn.kind: turn.answer for turn in drawing.turns}
        if "line" in answers:
            words = re.findall(r"[A-Za-z]+", answers["line"])
            expected = {
                "first word": words and words[0],
                "last word": words and words[-1],
                "word count": str(len(answers["line"].split())),
            }
            for kind, answer in answers.items():
                kinds[kind] += 1
                assert answer == expected.get(kind, answer)
    assert min(kinds[kind] for kind in ("first word", "last word", "word count")) > 40


def test_lines_are_long_and_of_many_kinds() -> None:
    alone = [turn.answer for d in _drawn() for turn in d.turns if turn.kind == "line"]
    among = [turn.answer for d in _drawn() for turn in d.turns if turn.kind == "which line"]
    assert max(map(len, alone)) <= MAX_LINE
    assert max(map(len, among)) <= MAX_NTH_LINE
    assert sum(len(text) >= 14 for text in alone) > 0.35 * len(alone)
    assert sum(len(text) >= 20 for text in alone) > 0.08 * len(alone)
    for form in (
        r"\d?\d:\d\d", r"\d{4}", r"@\w+\.(com|org|net)$", r"www\.", r"\$?\d+\.\d\d",
        "[A-Z]{3,} [A-Z]", r"[.!?]$", r",", r"\d-", r"\(", "%",
    ):  # fmt: skip
        assert any(re.search(form, text) for text in alone + among), form
    assert not any("  " in text for text in alone + among)


def test_lines_stay_legible_when_the_picture_is_pressed_into_one_tile() -> None:
    for drawing in _drawn():
        width, height = drawing.images[0].size
        capitals = [mark for mark in drawing.marks[0] if re.fullmatch("glyph:[A-Z]", mark.label)]
        for mark in capitals:
            assert (mark.box[3] - mark.box[1]) * TILE_SIZE / height >= 8
        if len(_spell_lines(drawing.marks[0])) == 1 and len(drawing.marks[0]) > 3:
            reach = max(mark.box[2] for mark in drawing.marks[0]) - drawing.marks[0][0].box[0]
            assert reach * TILE_SIZE / width / len(drawing.marks[0]) >= 4.5


def test_all_ink_is_marked_and_none_is_cut_off() -> None:
    for drawing in _drawn()[:150]:
        pixels = np.asarray(drawing.images[0]).astype(int)
        ink = np.abs(pixels - pixels[0, 0]).max(axis=2) > 30
        rim = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert ink.any()
        assert not rim.any()
        for mark in drawing.marks[0]:
            left, top, right, bottom = (int(edge) for edge in mark.box)
            ink[top:bottom, left:right] = False
        assert not ink.any()


def test_the_lowest_level_prints_one_short_line_of_words() -> None:
    for drawing in _drawn("train", 0.0, 100):
        lines = [turn.answer for turn in drawing.turns if turn.kind == "line"]
        assert len(lines) == 1
        assert re.fullmatch("[A-Za-z ]{2,12}", lines[0])
        assert drawing.images[0].size == (TILE_SIZE, TILE_SIZE)


@pytest.mark.parametrize(
    ("expected", "answer", "right", "characters"),
    [
        ("Open 9:00", "Open 9:00", 1.0, 1.0),
        ("Open 9:00", "  Open\n 9:00 ", 1.0, 1.0),
        ("Open 9:00", "open 9:00", 0.0, 8 / 9),
        ("Do it.", "Do it", 0.0, 5 / 6),
        ("Do it.", "", 0.0, 0.0),
        ("abcd", "abcdefgh", 0.0, 0.5),
    ],
)
def test_a_line_scores_by_its_characters(
    expected: str, answer: str, right: float, characters: float
) -> None:
    scores = FAMILIES["lines"].score(Turn("Read the line.", expected, "line"), answer)
    assert scores == line_scores(expected, answer)
    assert scores["right"] == right
    assert scores["characters"] == pytest.approx(characters)
