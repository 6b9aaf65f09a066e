"""Answers about rooms, against distances and directions taken from what the plan marks."""

import cmath
import math
from collections import Counter
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from seen_print import read_question

from internvl35.data.synthetic import Drawing, Turn, draw
from internvl35.data.synthetic.rooms import room_questions
from internvl35.data.synthetic.rooms.furniture import KINDS, Tints, draw_symbol
from internvl35.data.synthetic.rooms.rooms import Rooms

NUM = 150
ASKED = {
    "count": (room_questions.COUNT_WORDINGS,),
    "nearest": (room_questions.NEAREST_WORDINGS,),
    "choice": (room_questions.NEAREST_CHOICE_WORDINGS, room_questions.FACING_CHOICE_WORDINGS),
    "nearer": (room_questions.NEARER_WORDINGS,),
    "side": (room_questions.SIDE_WORDINGS,),
    "height": (room_questions.HEIGHT_WORDINGS,),
    "facing": (room_questions.FACING_WORDINGS,),
    "presence": (room_questions.PRESENCE_WORDINGS,),
    "area": (room_questions.AREA_WORDINGS,),
    "length": (room_questions.LENGTH_WORDINGS,),
}
Box = tuple[float, float, float, float]


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    return [draw("rooms", "test", index) for index in range(NUM)]


def things(drawing: Drawing) -> list[tuple[str, Box]]:
    marks = drawing.marks[0]
    return [(mark.label[10:], mark.box) for mark in marks if mark.label.startswith("furniture:")]


def only(drawing: Drawing, name: str) -> Box:
    (box,) = (box for other, box in things(drawing) if other == name)
    return box


def gap(one: Box, two: Box) -> float:
    """Least distance of two boxes, over all pairs of points on a fine grid of their rims."""
    return float(np.abs(rim(one)[:, None] - rim(two)).min())


@cache
def rim(box: Box) -> NDArray[np.complex128]:
    xs, ys = np.linspace(box[0], box[2], 41), np.linspace(box[1], box[3], 41)
    sides = [xs + 1j * box[1], xs + 1j * box[3], box[0] + 1j * ys, box[2] + 1j * ys]
    return np.concatenate(sides)


def middle(box: Box) -> complex:
    return complex((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)


def parts_of(turn: Turn) -> dict[str, str]:
    for asked in ASKED[turn.kind]:
        try:
            return read_question(asked, turn.question, r"\w+(?:, \w+)*|Options:(?:\n[A-D]\. \w+)+")
        except AssertionError:
            continue
    raise AssertionError(turn.question)


def nearest(drawing: Drawing, names: list[str], target: str) -> str:
    """The closest of some things, if it is closer by far."""
    goal = only(drawing, target)
    ranked = sorted((gap(only(drawing, name), goal), name) for name in names)
    assert ranked[1][0] >= 1.3 * ranked[0][0]
    assert ranked[1][0] - ranked[0][0] >= 9 * max(drawing.images[0].size) / 192
    return ranked[0][1]


def seen_from(drawing: Drawing, parts: dict[str, str]) -> str:
    stand, face, other = (middle(only(drawing, parts[key])) for key in ("stand", "face", "other"))
    turn = math.degrees(cmath.phase((other - stand) / (face - stand)))
    if abs(turn) >= 145:
        return "back"
    assert 45 + 10 < abs(turn) < 135 - 10
    return "right" if turn > 0 else "left"  # y points down


def expected(turn: Turn, drawing: Drawing) -> str:
    parts = parts_of(turn)
    names = [name for name, _ in things(drawing)]
    if turn.kind == "count":
        return str(names.count(parts["name"]))
    if turn.kind == "presence":
        return "yes" if parts["name"] in names else "no"
    if turn.kind == "nearer":
        return nearest(drawing, [parts["one"], parts["two"]], parts["target"])
    if turn.kind == "nearest":
        return nearest(drawing, parts["names"].split(", "), parts["target"])
    if turn.kind == "facing":
        return seen_from(drawing, parts)
    if turn.kind == "choice":
        options = {line[3:]: line[0] for line in parts["options"].split("\n")[1:]}
        if "stand" in parts:
            return options[seen_from(drawing, parts)]
        assert list(options) == parts["names"].split(", ")
        return options[nearest(drawing, list(options), parts["target"])]
    one, two = middle(only(drawing, parts["one"])), middle(only(drawing, parts["two"]))
    if turn.kind == "side":
        return "left" if one.real < two.real else "right"
    return "above" if one.imag < two.imag else "below"


def test_answers_are_what_the_plan_shows(drawings: list[Drawing]) -> None:
    seen: Counter[str] = Counter()
    for drawing in drawings:
        for turn in drawing.turns:
            if turn.kind not in ("area", "length"):
                assert turn.answer == expected(turn, drawing), turn
                seen[turn.kind] += 1
    assert len(seen) == 8
    assert min(seen.values()) > 20


def test_metres_agree_with_the_walls_and_with_each_other(drawings: list[Drawing]) -> None:
    num = 0
    for drawing in drawings:
        walls = [mark.box for mark in drawing.marks[0] if mark.label == "part:wall"]
        digits = [mark for mark in drawing.marks[0] if mark.label[:6] == "glyph:"]
        asked = {turn.kind for turn in drawing.turns} & {"area", "length"}
        if not asked:
            continue
        wide, deep = (int(mark.label[6:]) for mark in digits if mark.label[6:].isdigit())
        top, bottom, left, right = walls
        across, down = right[0] - left[2], bottom[1] - top[3]
        assert across / down == pytest.approx(wide / deep, rel=0.03)
        for turn in drawing.turns:
            if turn.kind == "area":
                assert turn.answer == str(wide * deep)
            elif turn.kind == "length":
                is_wide = parts_of(turn)["long"] == "wide"
                assert turn.answer == str(wide if is_wide else deep)
        num += 1
    assert num > 10


def test_furniture_stands_apart_inside_the_walls(drawings: list[Drawing]) -> None:
    for drawing in drawings[:80]:
        unit = max(drawing.images[0].size) / 192
        walls = [mark.box for mark in drawing.marks[0] if mark.label == "part:wall"]
        top, bottom, left, right = walls
        boxes = [box for name, box in things(drawing) if name not in ("door", "window")]
        for one, two in combinations(boxes, 2):
            assert gap(one, two) >= 3 * unit
        for x0, y0, x1, y1 in boxes:
            assert left[2] < x0 < x1 < right[0]
            assert top[3] < y0 < y1 < bottom[1]
            assert min(x1 - x0, y1 - y0) >= 11 * unit


def test_what_is_not_marked_is_bare_floor() -> None:
    for index in range(60):
        drawing = draw("rooms", "train", index, 0.0)
        pixels = np.asarray(drawing.images[0]).astype(int)
        top, bottom, left, right = (
            mark.box for mark in drawing.marks[0] if mark.label == "part:wall"
        )
        floor = np.zeros(pixels.shape[:2], dtype=bool)
        floor[int(top[3]) : int(bottom[1]), int(left[2]) : int(right[0])] = True
        for name, (x0, y0, x1, y1) in things(drawing):
            inside = pixels[int(y0) : int(y1), int(x0) : int(x1)]
            assert name == "door" or np.ptp(inside, axis=(0, 1)).max() > 100
            floor[int(y0) : int(y1), int(x0) : int(x1)] = False
        assert (pixels[floor] == 255).all()


def test_no_two_symbols_look_alike() -> None:
    tints = Tints((0, 0, 0), (255, 255, 255), (255, 255, 255))
    looks = {}
    for name in KINDS:
        image = draw_symbol(name, 32, 32, tints=tints)
        looks[name] = np.asarray(image).astype(float)
    for one, two in combinations(looks, 2):
        assert np.abs(looks[one] - looks[two]).mean() > 12, (one, two)


def test_a_turned_symbol_is_the_same_symbol_turned() -> None:
    tints = Tints((0, 0, 0), (200, 100, 50), (255, 255, 255))
    upright = np.asarray(draw_symbol("sofa", 40, 24, tints=tints))
    turned = np.asarray(draw_symbol("sofa", 40, 24, tints=tints, quarters=1))
    assert np.array_equal(np.rot90(upright), turned)


def test_letters_count_however_they_are_written_and_other_answers_do_not() -> None:
    family, turn = Rooms(), Turn("?", "B", "choice")
    assert [family.score(turn, text)["right"] for text in ("B", "b.", "B. lamp", "(B)")] == [
        1, 1, 1, 0,
    ]  # fmt: skip
    assert family.score(turn, "A")["right"] == family.score(turn, "")["right"] == 0
    assert family.score(Turn("?", "3", "count"), "There are three.")["right"] == 1
    assert family.score(Turn("?", "3", "count"), "2")["right"] == 0
    assert family.score(Turn("?", "bed", "nearest"), "the bed")["right"] == 1
    assert family.score(Turn("?", "left", "side"), "right")["right"] == 0


def test_answers_are_spread() -> None:
    answers: dict[str, Counter[str]] = {}
    for index in range(300):
        for turn in draw("rooms", "train", index).turns:
            answers.setdefault(turn.kind, Counter())[turn.answer] += 1
    for kind, most in {
        "count": 0.35, "presence": 0.6, "nearest": 0.17, "nearer": 0.2, "side": 0.6,
        "height": 0.62, "facing": 0.48, "choice": 0.45, "area": 0.3,
    }.items():  # fmt: skip
        counts = answers[kind]
        assert counts.most_common(1)[0][1] <= most * counts.total(), kind
