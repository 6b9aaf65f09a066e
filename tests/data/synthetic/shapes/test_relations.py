"""Things stand where the answers say they do, by the pixels."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import pytest
from seen_shapes import mentioned, parts_of, see

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.shapes import relations
from internvl35.data.synthetic.shapes.relations import Relations

WORDINGS = {
    "left or right": relations.SIDE_WORDINGS,
    "above or below": relations.HEIGHT_WORDINGS,
    "yes or no": relations.TRUE_WORDINGS,
    "where": relations.PLACE_WORDINGS,
    "nearest": relations.NEAREST_WORDINGS,
}
SIDES = {
    "left": ("left",), "right": ("right",), "above": ("above", "higher", "highest", "top"),
    "below": ("below", "under", "lower", "lowest", "bottom", "down"),
}  # fmt: skip


def only(text, things):
    ((thing,),) = mentioned(text, things)
    return thing


def side_in(text):
    (side,) = (side for side, words in SIDES.items() if set(words) & set(text.split()))
    return side


def reach(side, thing):
    """How far a thing's middle is to a side."""
    x, y = thing.middle
    return {"left": -x, "right": x, "above": -y, "below": y}[side]


def place_of(thing, image):
    x, y = thing.middle[0] / image.width, thing.middle[1] / image.height
    if abs(x - 0.5) < 0.15 and abs(y - 0.5) < 0.15:
        return "centre"
    return f"{'top' if y < 0.5 else 'bottom'} {'left' if x < 0.5 else 'right'}"


def which(turn, things):
    parts = parts_of(relations.WHAT_WORDINGS.seen, turn.question)
    if parts and mentioned(parts["two"], things):
        side, two = side_in(parts["where"]), only(parts["two"], things)
        beyond = [one for one in things if reach(side, one) > reach(side, two)]
        assert len(beyond) == 1
        return beyond[0].name
    side = side_in(parts_of(relations.OUTER_WORDINGS.seen, turn.question)["most"])
    return max(things, key=lambda one: reach(side, one)).name


def check(turn, things, image):
    """Answer a question from what is seen, and compare."""
    if turn.kind == "which":
        assert turn.answer == f"the {which(turn, things)}"
        return
    parts = parts_of(WORDINGS[turn.kind].seen, turn.question)
    if turn.kind == "where":
        assert turn.answer == place_of(only(parts["one"], things), image)
    elif turn.kind == "nearest":
        two = only(parts["two"], things)
        others = [one for one in things if one is not two]
        others.sort(key=lambda one: math.dist(one.middle, two.middle))
        assert turn.answer == f"the {others[0].name}"
        near, next_near = (math.dist(one.middle, two.middle) for one in others[:2])
        assert next_near > 1.25 * near  # ink is seldom in the middle of its square
    else:
        one, two = only(parts["one"], things), only(parts["two"], things)
        if turn.kind == "yes or no":
            side = side_in(parts["where"])
            assert turn.answer == ("yes" if reach(side, one) > reach(side, two) else "no")
        else:
            assert reach(turn.answer, one) > reach(turn.answer, two)


def test_answers_are_what_the_pixels_show():
    kinds: Counter[str] = Counter()
    for index in range(150):
        drawing = draw("relations", "train", index)
        things = see(drawing.images[0])
        assert 2 <= len(things) <= 5
        for turn in drawing.turns:
            check(turn, things, drawing.images[0])
            kinds[turn.kind] += 1
    assert min(kinds[kind] for kind in (*WORDINGS, "which")) > 25


def test_answers_are_spread_evenly():
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(500):
        for turn in draw("relations", "train", index).turns:
            answers[turn.kind][turn.answer] += 1
    for kind, most in {
        "left or right": 0.55, "above or below": 0.55, "yes or no": 0.55, "where": 0.28,
        "which": 0.05, "nearest": 0.06,
    }.items():  # fmt: skip
        counts = answers[kind]
        assert max(counts.values()) / sum(counts.values()) < most, kind
    assert set(answers["where"]) == {
        "top left", "top right", "bottom left", "bottom right", "centre"
    }  # fmt: skip


def test_two_things_are_compared_only_with_a_clear_gap():
    for index in range(150):
        drawing = draw("relations", "train", index)
        image, marks = drawing.images[0], drawing.marks[0]
        for turn in drawing.turns:
            if turn.kind != "left or right":
                continue
            parts = parts_of(relations.SIDE_WORDINGS.seen, turn.question)
            boxes = {
                f"{colour.label[7:]} {shape.label[6:]}": colour.box
                for colour, shape in zip(marks[::2], marks[1::2], strict=True)
            }
            if parts["one"] in boxes and parts["two"] in boxes:
                one, two = boxes[parts["one"]], boxes[parts["two"]]
                gap = two[0] - one[2] if turn.answer == "left" else one[0] - two[2]
                assert gap >= 0.03 * image.width


@pytest.mark.parametrize(
    ("expected", "answer", "is_right"),
    [
        ("centre", "Center.", 1.0),
        ("centre", "in the corner", 0.0),
        ("the red circle", "red circle", 1.0),
        ("left", "right", 0.0),
        ("top left", "top right", 0.0),
    ],
)
def test_both_spellings_of_the_centre_are_right(expected, answer, is_right):
    assert Relations().score(Turn("Where?", expected, "where"), answer) == {"right": is_right}
