import re
from collections import Counter
from collections.abc import Iterator
from functools import cache

import numpy as np

from internvl35.data.synthetic import FAMILIES, Drawing, draw
from internvl35.data.synthetic.colours import COLOURS
from internvl35.data.synthetic.drawing import Turn
from internvl35.data.synthetic.labels import COLOUR_NAMES, SHAPES
from internvl35.data.synthetic.talk.honesty import CANNOT_TELL, DO_NOT_KNOW, NO_PICTURE, miss
from internvl35.data.synthetic.talk.honesty_wordings import NOUNS

HONESTY = FAMILIES["honesty"]


@cache
def _drawing(index: int, level: float) -> Drawing:
    return draw("honesty", "test", index, level)


def _drawings(num: int, level: float = 1.0) -> Iterator[Drawing]:
    return (_drawing(index, level) for index in range(num))


def _see(drawing: Drawing) -> dict[str, str]:
    """Shape to colour; the shapes are those of the marks, the colours those of the pixels."""
    pixels = np.asarray(drawing.images[0], int)
    seen = {}
    for mark in drawing.marks[0]:
        if mark.label.startswith("shape:"):
            left, top, right, bottom = mark.box
            shade = pixels[int(top + 0.55 * (bottom - top)), int((left + right) / 2)]
            colour = min(COLOURS, key=lambda name: np.abs(shade - COLOURS[name]).sum())
            seen[mark.label.split(":")[1]] = colour
    return seen


def test_every_question_about_a_strange_picture_is_refused() -> None:
    num_seen = 0
    for drawing in _drawings(300):
        if drawing.images and drawing.marks[0][0].label == "part:photo":
            assert {turn.answer for turn in drawing.turns} == {CANNOT_TELL}
            assert {turn.kind for turn in drawing.turns} == {"photograph"}
            assert drawing.marks[0][0].box == (0, 0, *drawing.images[0].size)
            num_seen += 1
        elif drawing.images:
            assert CANNOT_TELL not in {turn.answer for turn in drawing.turns}
    assert 70 < num_seen < 170


def test_what_is_there_is_named_and_what_is_not_is_missed_by_its_name() -> None:
    kinds = Counter()
    nouns = {*NOUNS.seen, *NOUNS.kept}
    for drawing in _drawings(300):
        if not drawing.images or drawing.marks[0][0].label == "part:photo":
            continue
        seen = _see(drawing)
        shapes_by_colour = {colour: shape for shape, colour in seen.items()}
        assert len(shapes_by_colour) == len(seen)
        assert not {"square", "rectangle"} <= set(seen)
        for turn in drawing.turns:
            kinds[turn.kind] += 1
            asked = set(re.findall(r"[a-z]+", turn.question.lower()))
            shape, colour = asked & {*SHAPES}, asked & {*COLOUR_NAMES}
            if shape:
                (name,) = shape
                expected = seen.get(name, miss(name))
            elif colour:
                (name,) = colour
                expected = shapes_by_colour.get(name, miss(f"{name} thing"))
            else:
                found = re.fullmatch(r"I see no (.+) in this picture\.", turn.answer)
                assert found[1] in nouns
                assert found[1] in turn.question
                continue
            assert turn.answer == expected
            assert (turn.kind == "missing thing") == turn.answer.startswith("I see no")
    assert set(kinds) == {"missing thing", "thing that is there"}
    assert 0.3 < kinds["thing that is there"] / kinds.total() < 0.6


def test_nothing_missing_has_a_name_of_what_is_drawn() -> None:
    assert not {*NOUNS.seen, *NOUNS.kept} & {*SHAPES, *COLOUR_NAMES}
    assert not {*NOUNS.seen} & {*NOUNS.kept}


def test_the_wide_world_is_not_known() -> None:
    kinds = Counter()
    for drawing in _drawings(300):
        if not drawing.images:
            for turn in drawing.turns:
                kinds[turn.kind] += 1
                expected = {"outside question": DO_NOT_KNOW, "no picture": NO_PICTURE}
                assert turn.answer == expected[turn.kind]
                assert "{" not in turn.question
    assert kinds["outside question"] > 2 * kinds["no picture"] > 0


def test_no_question_without_a_picture_has_two_answers_in_all_families() -> None:
    known: dict[str, str] = {}
    for family, num in (("talk", 600), ("arithmetic", 600), ("honesty", 150)):
        for index in range(num):
            drawing = draw(family, "train", index)
            for turn in () if drawing.images else drawing.turns:
                assert known.setdefault(turn.question, turn.answer) == turn.answer
    assert len(known) > 1000


def test_only_a_test_asks_for_nouns_that_are_kept_for_it() -> None:
    def asks_kept(split: str) -> bool:
        turns = (turn for index in range(80) for turn in draw("honesty", split, index).turns)
        return bool({turn.answer for turn in turns} & {miss(noun) for noun in NOUNS.kept})

    assert asks_kept("test")
    assert not asks_kept("train")


def test_a_low_level_draws_two_shapes_on_white() -> None:
    for drawing in _drawings(80, 0.0):
        if drawing.images and drawing.marks[0][0].label != "part:photo":
            assert len(_see(drawing)) == 2
            assert drawing.images[0].getpixel((0, 0)) == (255, 255, 255)


def test_only_an_honest_answer_that_names_the_thing_is_right() -> None:
    turn = Turn("What colour is the car?", miss("car"), "missing thing")
    assert HONESTY.score(turn, "i see no car in this picture") == {"right": 1.0}
    for wrong in ("red", "", "I see no cat in this picture.", CANNOT_TELL, "I see a car.", "no"):
        assert HONESTY.score(turn, wrong) == {"right": 0.0}
    turn = Turn("Describe the picture.", CANNOT_TELL, "photograph")
    assert HONESTY.score(turn, CANNOT_TELL.upper()) == {"right": 1.0}
    assert HONESTY.score(turn, DO_NOT_KNOW) == {"right": 0.0}
