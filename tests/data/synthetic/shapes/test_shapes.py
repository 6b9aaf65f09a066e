"""Names and sizes are those that the pixels show."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from seen_shapes import mentioned, see

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.shapes.shapes import Shapes


def check(turn, things):
    """Answer a question from what is seen, and compare."""
    named = mentioned(turn.question, things)
    words = turn.question.lower()
    if turn.kind in ("colour", "shape"):
        ((thing,),) = named or (things,)
        assert turn.answer == getattr(thing, turn.kind)
    elif turn.kind == "both":
        (thing,) = things
        article = "an" if thing.colour == "orange" else "a"
        assert turn.answer == f"{article} {thing.name}"
    elif turn.kind == "there":
        assert turn.answer == ("yes" if named[0] else "no")
    elif turn.kind == "size":
        is_small = "small" in words
        ordered = sorted(things, key=lambda thing: thing.num_pixels, reverse=not is_small)
        assert len(things) > 1
        assert turn.answer == f"the {ordered[0].name}"
        large, small = sorted(thing.num_pixels for thing in ordered[:2])[::-1]
        assert large > 1.2 * small
    else:
        assert turn.kind == "compare"
        (one,), (two,) = named
        is_smaller = "smaller" in words
        is_true = (one.num_pixels < two.num_pixels) == is_smaller
        assert turn.answer == ("yes" if is_true else "no")


def test_answers_are_what_the_pixels_show():
    kinds: Counter[str] = Counter()
    for index in range(150):
        drawing = draw("shapes", "validation", index)
        things = see(drawing.images[0])
        assert len({thing.colour for thing in things}) == len(things) <= 4
        assert len({thing.shape for thing in things}) == len(things)
        for turn in drawing.turns:
            check(turn, things)
            kinds[turn.kind] += 1
    assert min(kinds[kind] for kind in ("colour", "shape", "both", "there", "size", "compare")) > 8


def test_no_answer_is_a_good_guess():
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(800):
        for turn in draw("shapes", "train", index).turns:
            answers[turn.kind][turn.answer] += 1
    shares = {kind: max(counts.values()) / sum(counts.values()) for kind, counts in answers.items()}
    assert shares["there"] < 0.55
    assert shares["compare"] < 0.55
    assert shares["colour"] < 0.15
    assert shares["shape"] < 0.17
    assert shares["size"] < 0.05


def test_larger_and_smaller_are_true_equally_often():
    truths: defaultdict[bool, Counter[str]] = defaultdict(Counter)
    for index in range(800):
        for turn in draw("shapes", "train", index).turns:
            if turn.kind == "compare":
                truths["smaller" in turn.question][turn.answer] += 1
    for counts in truths.values():
        assert 0.42 < counts["yes"] / sum(counts.values()) < 0.58


def test_what_is_not_there_shares_its_colour_or_its_shape_with_what_is():
    for index in range(300):
        drawing = draw("shapes", "train", index)
        labels = {mark.label.split(":")[1] for mark in drawing.marks[0]}
        for turn in drawing.turns:
            if turn.kind == "there" and turn.answer == "no":
                assert labels & set(turn.question.replace("?", " ").replace(".", " ").split())


def test_an_easy_drawing_has_up_to_two_large_objects():
    for index in range(100):
        boxes = [mark.box for mark in draw("shapes", "train", index, 0.0).marks[0][::2]]
        assert len(boxes) <= 2
        assert all(right - left >= 38 for left, _, right, _ in boxes)


@pytest.mark.parametrize(
    ("expected", "answer", "is_right"),
    [
        ("red", "Red.", 1.0),
        ("red", "blue", 0.0),
        ("a red circle", "red circle", 1.0),
        ("the red circle", "The red circle.", 1.0),
        ("the red circle", "the blue circle", 0.0),
        ("yes", "", 0.0),
    ],
)
def test_case_and_articles_do_not_count(expected, answer, is_right):
    assert Shapes().score(Turn("What?", expected, "colour"), answer) == {"right": is_right}
