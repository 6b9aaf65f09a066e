"""The sheet of right and wrong answers."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.tiny_sheet import (
    CELL,
    answer_sheet,
    choose_answers,
    shorten,
    wrap,
    write_sheet,
)
from PIL import Image

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.printed.fonts import PLAIN_FONT, load_font
from internvl35.evals.drawn import Answered

PLAIN_TALK = next(
    index
    for index in range(50)
    if all(
        turn.question.isascii() and turn.answer.isascii()
        for turn in draw("talk", "test", index).turns[:1]
    )
)
FONT = load_font(PLAIN_FONT, 11)


def entry(index, right, family="counting", answer="7"):
    return Answered(family, index, "count", answer, {"right": float(right)}, frozenset(), 1)


@pytest.mark.parametrize(
    ("rights", "num_right", "num_wrong"),
    [([1, 0] * 9, 3, 3), ([1] * 9 + [0], 5, 1), ([0] * 9, 0, 6), ([1, 0], 1, 1)],
)
def test_a_family_shows_right_and_wrong_answers(rights, num_right, num_wrong):
    chosen = choose_answers([entry(index, right) for index, right in enumerate(rights)])
    assert [held.is_right for held in chosen] == [True] * num_right + [False] * num_wrong


def test_what_the_font_cannot_print_is_passed_over():
    foreign = next(i for i in range(50) if not draw("talk", "test", i).turns[0].answer.isascii())
    assert choose_answers([entry(foreign, True, "talk"), entry(0, False, answer="两个")]) == []


def test_pictures_stand_under_a_bar_that_says_whether_the_answer_is_right():
    sheet = np.asarray(
        answer_sheet([entry(0, True), entry(1, False), entry(PLAIN_TALK, True, "talk")])
    )
    bars = [
        (sheet == np.array(colour)).all(axis=2).sum(axis=1).max()
        for colour in ((24, 128, 56), (190, 30, 30))
    ]
    assert bars == [CELL, CELL]
    top = sheet[: CELL + 40]
    for column, index in ((0, 0), (1, 1)):
        ground = draw("counting", "test", index).images[0].getpixel((1, 1))
        cell = top[:, 8 + column * (CELL + 8) :][:, :CELL]
        close = (np.abs(cell.astype(int) - np.array(ground)) <= 2).all(axis=2).mean()
        assert close > 0.3


def test_words_are_wrapped_and_nothing_is_lost():
    text = "How many of the blue stars and of the red circles are there? " + "X" * 90
    lines = wrap(text, 180, FONT)
    assert all(FONT.getlength(line) <= 180 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_a_long_line_is_cut():
    assert shorten("short", 100, FONT) == "short"
    cut = shorten("W" * 3000, 100, FONT)
    assert cut.endswith("...")
    assert FONT.getlength(cut) <= 100


def test_a_sheet_that_is_too_large_gets_fewer_colours(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3), dtype=np.uint8)
    path = tmp_path / "folder" / "sheet.png"
    write_sheet(Image.fromarray(noise), path)
    full = path.stat().st_size
    write_sheet(Image.fromarray(noise), path, max_bytes=full * 2 // 3)
    assert path.stat().st_size <= full * 2 // 3
    assert Image.open(path).size == (120, 120)
