"""Counting what the pixels show gives the answers."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from seen_shapes import mentioned, see

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.shapes.counting import MAX_THINGS, WORDINGS, Counting

NOUN = re.compile(r"\b(shapes|objects|things)\b")


def test_counting_what_the_pixels_show_gives_the_answer():
    num_asked = Counter[str]()
    for index in range(90):
        drawing = draw("counting", "validation", index)
        things = see(drawing.images[0])
        for turn in drawing.turns:
            named = mentioned(turn.question, things)
            if named:
                (meant,) = named
            else:
                assert NOUN.search(turn.question)
                meant = things
            assert turn.answer == str(len(meant))
            num_asked[turn.answer] += 1
    assert set(num_asked) >= set("0123456")


def test_no_count_is_a_good_guess():
    answers = Counter(draw("counting", "train", index).turns[0].answer for index in range(800))
    assert set(answers) == set("0123456789")
    assert max(answers.values()) / 800 < 0.3
    assert 0.03 < answers["0"] / 800 < 0.08
    assert sum(answers[str(count)] for count in (5, 6, 7, 8, 9)) / 800 > 0.15


def test_no_question_takes_a_square_for_a_rectangle():
    num_squares = 0
    for index in range(600):
        drawing = draw("counting", "train", index)
        labels = {mark.label for mark in drawing.marks[0]}
        if "shape:square" in labels:
            num_squares += 1
            assert "shape:rectangle" not in labels
            assert not any("rectangle" in turn.question for turn in drawing.turns)
    assert num_squares > 50


def test_an_easy_drawing_has_up_to_three_large_shapes_on_white():
    for index in range(150):
        drawing = draw("counting", "train", index, 0.0)
        boxes = [mark.box for mark in drawing.marks[0][::2]]
        assert 1 <= len(boxes) <= 3
        assert drawing.images[0].size == (192, 192)
        assert drawing.images[0].getpixel((0, 0)) == (255, 255, 255)


def test_shapes_stay_visible_in_a_thumbnail():
    numbers = Counter[int]()
    for index in range(400):
        drawing = draw("counting", "test", index)
        image = drawing.images[0]
        boxes = [mark.box for mark in drawing.marks[0][::2]]
        numbers[len(boxes)] += 1
        for left, top, right, bottom in boxes:
            assert (right - left) * 192 / image.width >= 9
            assert (bottom - top) * 192 / image.height >= 7
            assert max((right - left) / image.width, (bottom - top) / image.height) * 192 >= 16
    assert set(numbers) == set(range(1, MAX_THINGS + 1))


@pytest.mark.parametrize(
    ("answer", "is_right"),
    [("3", 1.0), ("There are three.", 1.0), ("3 or 4", 0.0), ("4", 0.0), ("", 0.0)],
)
def test_the_one_number_that_is_stated_counts(answer, is_right):
    assert Counting().score(Turn("How many?", "3", "count"), answer) == {"right": is_right}


def test_a_quarter_of_the_wordings_is_kept_for_the_test():
    assert len(WORDINGS.kept) >= 3
    turns = [turn for index in range(200) for turn in draw("counting", "test", index).turns]
    assert 0.4 < sum(turn.is_unseen for turn in turns) / len(turns) < 0.6
    seen = [turn for index in range(200) for turn in draw("counting", "train", index).turns]
    assert not any(turn.is_unseen for turn in seen)
