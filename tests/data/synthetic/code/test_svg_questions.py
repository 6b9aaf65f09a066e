import re
from collections import Counter, defaultdict
from functools import cache
from xml.etree import ElementTree

import pytest

from internvl35.data.synthetic import FAMILIES, Turn, draw
from internvl35.data.synthetic.code.svg_code import SVG_COLOURS, SVG_SHAPES
from internvl35.data.synthetic.code.svg_questions import QUARTERS

CODE = FAMILIES["svg code"]
_CHOICE = re.compile(r"^\(?([A-D])[).:] ?(.+)$", re.MULTILINE)


@cache
def _turns(num: int) -> tuple[Turn, ...]:
    return tuple(t for index in range(num) for t in draw("svg code", "test", index).turns)


def _shapes(question: str) -> list[tuple[str, str, float, float]]:
    """Colour, shape and middle of what the code draws, read from the code alone."""
    found = re.search(r"<svg.*</svg>", question)
    assert found is not None
    shapes = []
    for element in ElementTree.fromstring(found[0]):
        get = {key: value for key, value in element.attrib.items() if key != "fill"}
        if element.tag == "polygon":
            points = [tuple(map(float, pair.split(","))) for pair in get["points"].split()]
            xs, ys = zip(*points, strict=True)
            name = {3: "triangle", 4: "diamond"}[len(points)]
            middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
        elif element.tag == "rect":
            width, height = float(get["width"]), float(get["height"])
            name = "square" if width == height else "rectangle"
            middle = (float(get["x"]) + width / 2, float(get["y"]) + height / 2)
        else:
            name, middle = element.tag, (float(get["cx"]), float(get["cy"]))
        shapes.append((element.attrib["fill"], name, *middle))
    return shapes


def _answer(turn: Turn) -> str:
    """The answer in words, looked up among the choices if there are any."""
    choices = dict(_CHOICE.findall(turn.question))
    assert len(choices) in (0, 4)
    assert len(set(choices.values())) == len(choices)
    return choices[turn.answer] if choices else turn.answer


def _asked(question: str) -> str:
    return _CHOICE.sub("", re.sub(r"<svg.*</svg>", "", question)).lower()


def _expected(turn: Turn) -> str:
    shapes, asked = _shapes(turn.question), _asked(turn.question)
    colours = {colour for colour in SVG_COLOURS if re.search(rf"\b{colour}\b", asked)}
    names = {name for name in SVG_SHAPES if re.search(rf"\b{name}s?\b", asked)}
    meant = [s for s in shapes if (not colours or s[0] in colours) and (not names or s[1] in names)]
    if turn.kind == "count":
        return str(len(meant))
    assert len(meant) == 1, turn
    colour, name, x, y = meant[0]
    if turn.kind != "where":
        return colour if turn.kind == "colour" else name
    across, down = ("left" if x < 50 else "right"), ("top" if y < 50 else "bottom")
    return {1: across if _answer(turn) in ("left", "right") else down, 2: f"{down} {across}"}[
        len(_answer(turn).split())
    ]


def test_answers_follow_from_the_code() -> None:
    for turn in _turns(300):
        assert _answer(turn) == _expected(turn), turn


def test_a_place_near_the_middle_is_not_asked_for() -> None:
    for turn in _turns(300):
        if turn.kind == "where":
            asked = _asked(turn.question)
            (shape,) = [s for s in _shapes(turn.question) if f"{s[0]} {s[1]}" in asked]
            if _answer(turn) in ("left", "right", *QUARTERS):
                assert abs(shape[2] - 50) >= 10
            if _answer(turn) in ("top", "bottom", *QUARTERS):
                assert abs(shape[3] - 50) >= 10


def test_no_answer_is_much_more_frequent_than_the_others() -> None:
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    letters: Counter[str] = Counter()
    turns = _turns(1000)
    for turn in turns:
        if turn.answer in "ABCD":
            letters[turn.answer] += 1
        answers[turn.kind][_answer(turn)] += 1
    assert 0.35 < letters.total() / len(turns) < 0.55
    assert max(letters.values()) < 0.3 * letters.total()
    for kind, most in (("count", 0.4), ("colour", 0.2), ("shape", 0.25), ("where", 0.25)):
        assert answers[kind].most_common(1)[0][1] < most * answers[kind].total(), answers[kind]
    assert set(answers["count"]) == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("B", 1),
        ("B.", 1),
        ("(B)", 1),
        ("B) two", 1),
        ("It is clear.\nAnswer: B", 1),
        ("**Answer: B**", 1),
        ("Answer: A. Not B.", 0),
        ("A", 0),
        ("Blue", 0),
        ("", 0),
    ],
)
def test_a_letter_is_found_in_an_answer(answer: str, right: int) -> None:
    assert CODE.score(Turn("q", "B", "count"), answer) == {"right": right}


def test_words_and_numbers_may_stand_in_a_sentence_or_alone() -> None:
    assert CODE.score(Turn("q", "3", "count"), "There are three.") == {"right": 1}
    assert CODE.score(Turn("q", "3", "count"), "2") == {"right": 0}
    assert CODE.score(Turn("q", "top left", "where"), "Answer: Top left.") == {"right": 1}
    assert CODE.score(Turn("q", "red", "colour"), "blue") == {"right": 0}


def test_reasoning_ends_in_what_the_answer_says() -> None:
    for turn in _turns(200):
        assert turn.reasoning
        if turn.answer in "ABCD":
            assert turn.reasoning.endswith(f"That is {turn.answer}.")
        elif turn.kind in ("count", "colour", "shape"):
            assert turn.answer in turn.reasoning


def test_rectangles_are_not_counted_beside_squares_nor_ellipses_beside_circles() -> None:
    num = 0
    for turn in _turns(1000):
        if turn.kind == "count":
            names = {name for _, name, *_ in _shapes(turn.question)}
            for many, special in (("rectangles", "square"), ("ellipses", "circle")):
                if many in turn.question:
                    num += 1
                    assert special not in names, turn.question
    assert num > 20
