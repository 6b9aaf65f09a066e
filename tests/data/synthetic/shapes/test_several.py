"""What is said of several pictures is what their pixels show."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from seen_shapes import mentioned, parts_of, see

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.shapes import several_wordings as asked
from internvl35.data.synthetic.shapes.several import Several

NUMBERS = {"first": 0, "second": 1, "third": 2, "1": 0, "2": 1, "3": 2}


def picture(text):
    (number,) = (NUMBERS[word] for word in text.split() if word in NUMBERS)
    return number


def count(things, scene):
    return len(mentioned(things, scene)[0]) if things != "objects" else len(scene)


def difference(one, two):
    """How two pictures differ, in the words of the answers."""
    gone = [thing for thing in one if thing not in two]
    new = [thing for thing in two if thing not in one]
    if not gone and not new:
        return "nothing"
    if not new:
        return f"the {gone[0].name} is gone"
    if not gone:
        return f"the {new[0].name} is new"
    (before,), (after,) = gone, new
    if before.colour != after.colour:
        aspect = "colour"
    elif before.shape != after.shape:
        aspect = "shape"
    else:
        aspect = "place" if before.num_pixels < 1.8 * after.num_pixels else "size"
        if after.num_pixels > 1.8 * before.num_pixels:
            aspect = "size"
    return f"the {aspect} of the {before.name}"


def check_number(turn, scenes):
    if turn.kind == "which has":
        parts = parts_of(asked.HAS_WORDINGS.seen, turn.question)
        having = [at for at, scene in enumerate(scenes) if mentioned(parts["name"], scene)[0]]
        assert having == [int(turn.answer) - 1]
    elif turn.kind == "compare counts":
        parts = parts_of(asked.COMPARE_WORDINGS.seen, turn.question)
        counts = [count(parts["things"], scene) for scene in scenes]
        assert ("most" in parts["more"] or "fewest" in parts["more"]) == (len(scenes) == 3)
        extreme = min(counts) if "few" in parts["more"] else max(counts)
        assert counts.index(extreme) == int(turn.answer) - 1
        assert counts.count(extreme) == 1
    elif turn.kind == "how many more":
        parts = parts_of(asked.MORE_WORDINGS.seen, turn.question)
        one, two = (count(parts["things"], scenes[picture(parts[at])]) for at in ("one", "two"))
        assert one - two == int(turn.answer) > 0
    else:
        parts = parts_of(asked.COUNT_WORDINGS.seen, turn.question)
        assert count(parts["things"], scenes[picture(parts["one"])]) == int(turn.answer)


def check(turn, scenes):
    """Answer a question from what is seen, and compare."""
    if turn.answer.isdigit():
        check_number(turn, scenes)
    elif turn.kind == "same":
        assert turn.answer == ("yes" if scenes[0] == scenes[1] else "no")
    elif turn.kind == "difference":
        assert turn.answer == difference(*scenes)
    elif turn.kind == "same thing":
        parts = parts_of(asked.THING_WORDINGS.seen, turn.question)
        ((thing,),) = mentioned(parts["name"], scenes[0])
        assert turn.answer == ("yes" if thing in scenes[1] else "no")
    else:
        assert turn.kind == "look"
        pool = asked.COLOUR_WORDINGS if turn.answer not in asked_shapes() else asked.SHAPE_WORDINGS
        parts = parts_of(pool.seen, turn.question)
        ((thing,),) = mentioned(parts["name"], scenes[picture(parts["one"])])
        assert turn.answer in (thing.colour, thing.shape)


def asked_shapes():
    return {"circle", "square", "triangle", "star", "diamond", "cross", "rectangle", "heart"}


def test_answers_are_what_the_pixels_show():
    kinds: Counter[str] = Counter()
    for index in range(150):
        drawing = draw("several", "train", index)
        assert 2 <= len(drawing.images) <= 3
        assert len({image.size for image in drawing.images}) == 1
        scenes = [sorted(see(image), key=lambda thing: thing.box) for image in drawing.images]
        for turn in drawing.turns:
            check(turn, scenes)
            kinds[turn.kind] += 1
    assert min(kinds.values()) > 20
    assert len(kinds) == 8


def test_pictures_that_agree_do_so_in_every_pixel():
    for index in range(150):
        drawing = draw("several", "train", index)
        for turn in drawing.turns:
            if turn.kind == "same":
                one, two = drawing.images
                assert (one.tobytes() == two.tobytes()) == (turn.answer == "yes")


def test_first_questions_have_no_answer_that_is_a_good_guess():
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    changes: Counter[str] = Counter()
    for index in range(1000):
        turn = draw("several", "train", index).turns[0]
        answers[turn.kind][turn.answer] += 1
        if turn.kind == "difference":
            words = turn.answer.split()
            changes[words[1] if "of" in words else words[-1]] += 1
    assert set(changes) == {"colour", "shape", "size", "place", "new", "gone", "nothing"}
    assert max(changes.values()) / sum(changes.values()) < 0.28
    for kind, most in {
        "same": 0.6, "same thing": 0.62, "which has": 0.56, "compare counts": 0.56,
        "how many more": 0.62, "count": 0.4,
    }.items():  # fmt: skip
        assert max(answers[kind].values()) / sum(answers[kind].values()) < most, kind


@pytest.mark.parametrize(
    ("expected", "answer", "is_right"),
    [
        ("2", "2", 1.0),
        ("2", "Picture 2.", 1.0),
        ("2", "1", 0.0),
        ("2", "1 and 2", 0.0),
        ("the colour of the red star", "The color of the red star.", 1.0),
        ("the colour of the red star", "the size of the red star", 0.0),
        ("nothing", "", 0.0),
    ],
)
def test_a_number_or_the_expected_words_are_right(expected, answer, is_right):
    assert Several().score(Turn("What?", expected, "any"), answer) == {"right": is_right}
