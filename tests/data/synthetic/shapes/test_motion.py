"""What is said of a video is what the pixels of its frames show."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from seen_shapes import mentioned, parts_of, see

from internvl35.data.synthetic import draw
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.shapes import motion_wordings as asked
from internvl35.data.synthetic.shapes.motion import Motion


def watch(frames):
    """Where each thing is in the frames that show it, by its name."""
    places: defaultdict[str, dict[int, tuple[float, float]]] = defaultdict(dict)
    for number, frame in enumerate(frames):
        for thing in frame:
            places[thing.name][number] = thing.middle
    return places


def what_it_does(places):
    """In the words of the answers, and the direction of what moves."""
    if 0 not in places:
        return "appears"
    if 3 not in places:
        return "vanishes"
    x, y = (places[3][axis] - places[0][axis] for axis in (0, 1))
    if max(abs(x), abs(y)) < 5:
        return "stays"
    assert max(abs(x), abs(y)) > 25 > 4 > min(abs(x), abs(y))
    if abs(x) > abs(y):
        return "left" if x < 0 else "right"
    return "up" if y < 0 else "down"


def only(text, frames):
    everything = {thing.name: thing for frame in frames for thing in frame}
    ((thing,),) = mentioned(text, list(everything.values()))
    return thing.name


def check_yes_or_no(turn, frames, places, does):
    parts = parts_of(asked.MOVES_WORDINGS.seen, turn.question)
    if parts:
        done = does[only(parts["name"], frames)]
        is_true = (
            done not in ("stays", "appears", "vanishes")
            if parts["do"] == "move"
            else parts["do"] == f"move {done}"
        )
    else:
        parts = parts_of(asked.BEFORE_WORDINGS.seen, turn.question)
        one, two = (min(places[only(parts[at], frames)]) for at in ("one", "two"))
        assert one != two
        is_true = (one < two) == (parts["when"] == "before")
    assert turn.answer == ("yes" if is_true else "no")


def check(turn, frames):
    """Answer a question from what is seen, and compare."""
    places = watch(frames)
    does = {name: what_it_does(where) for name, where in places.items()}
    movers = {name: done for name, done in does.items() if done in ("left", "right", "up", "down")}
    if turn.kind == "direction":
        parts = parts_of(asked.DIRECTION_WORDINGS.seen, turn.question)
        assert turn.answer == does[only(parts["name"], frames)]
    elif turn.kind == "what moved":
        where = parts_of(asked.MOVER_WORDINGS.seen, turn.question)["where"].strip()
        (name,) = (name for name, done in movers.items() if where in ("", done))
        assert turn.answer == f"the {name}"
    elif turn.kind == "yes or no":
        check_yes_or_no(turn, frames, places, does)
    elif turn.kind == "order":
        place = parts_of(asked.ORDER_WORDINGS.seen, turn.question)["place"]
        order = sorted(places, key=lambda name: min(places[name]))
        at = {"first": 0, "second": 1, "third": 2, "fourth": 3, "last": -1}[place]
        assert turn.answer == f"the {order[at]}"
    elif turn.kind == "frame":
        parts = parts_of(asked.FRAME_WORDINGS.seen, turn.question)
        assert turn.answer == str(1 + min(places[only(parts["name"], frames)]))
    elif turn.kind == "appear or vanish":
        parts = parts_of(asked.HAPPENS_WORDINGS.seen, turn.question)
        name = only(parts["name"], frames)
        assert turn.answer == ("moves" if name in movers else does[name])
    elif turn.kind == "what changed":
        word = "vanishes" if "vanish" in turn.question or "disap" in turn.question else "appears"
        (name,) = (name for name, done in does.items() if done == word)
        assert turn.answer == f"the {name}"
    else:
        assert turn.kind == "count over time"
        frame = int(parts_of(asked.COUNT_WORDINGS.seen, turn.question)["frame"])
        assert turn.answer == str(len(frames[frame - 1]))


def test_answers_are_what_the_pixels_show():
    kinds: Counter[str] = Counter()
    for index in range(110):
        drawing = draw("motion", "train", index)
        assert drawing.is_video
        assert len(drawing.images) == len(drawing.marks) == 4
        frames = [see(image) for image in drawing.images]
        for turn in drawing.turns:
            check(turn, frames)
            kinds[turn.kind] += 1
    assert min(kinds.values()) > 15
    assert len(kinds) == 8


def test_what_stands_still_does_so_in_every_pixel():
    num_still = 0
    for index in range(60):
        drawing = draw("motion", "train", index)
        marks = [set(marks) for marks in drawing.marks]
        for mark in set.intersection(*marks):
            num_still += 1
            assert len({image.crop(mark.box).tobytes() for image in drawing.images}) == 1
    assert num_still > 60


def test_no_answer_is_a_good_guess():
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for index in range(700):
        for turn in draw("motion", "train", index).turns:
            answers[turn.kind][turn.answer] += 1
    for kind, most in {
        "direction": 0.3, "what moved": 0.06, "yes or no": 0.55, "order": 0.06, "frame": 0.33,
        "appear or vanish": 0.4, "what changed": 0.08, "count over time": 0.48,
    }.items():  # fmt: skip
        assert max(answers[kind].values()) / sum(answers[kind].values()) < most, kind


def test_an_easy_video_has_at_most_one_thing_beside_what_acts():
    for index in range(80):
        drawing = draw("motion", "train", index, 0.0)
        assert max(len(marks) for marks in drawing.marks) <= 4
        assert drawing.images[0].size == (112, 112)


@pytest.mark.parametrize(
    ("expected", "answer", "is_right"),
    [
        ("left", "Left.", 1.0),
        ("left", "right", 0.0),
        ("the red star", "red star", 1.0),
        ("3", "frame 3", 1.0),
        ("3", "2", 0.0),
        ("moves", "", 0.0),
    ],
)
def test_case_and_articles_do_not_count(expected, answer, is_right):
    assert Motion().score(Turn("What?", expected, "any"), answer) == {"right": is_right}
