import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from internvl35.data.synthetic import FAMILIES, Drawing, Mark, draw
from internvl35.data.synthetic.canvas import TILE_SIZE
from internvl35.data.synthetic.drawing import Pool, Turn
from internvl35.data.synthetic.sums import sum_wordings

SUMS = FAMILIES["sums"]
POOLS = {
    name.removesuffix("_WORDINGS"): pool
    for name, pool in vars(sum_wordings).items()
    if name.endswith("_WORDINGS")
}
PARTS = {
    "which": "the sum|sum [A-D]",
    "goods": r"(?:an|a|two|three) \w+ and an? \w+",
    "money": r"\d+",
}
NUMBER_WORDS = {"a": 1, "an": 1, "two": 2, "three": 3}


@cache
def _drawing(index: int, level: float) -> Drawing:
    return draw("sums", "test", index, level)


def _drawings(num: int, level: float = 1.0) -> Iterator[Drawing]:
    return (_drawing(index, level) for index in range(num))


def _pattern(wording: str) -> str:
    """Names of a wording become groups; a name that comes back must say the same."""
    pattern, named = "", set()
    for text, name in re.findall(r"([^{]*)(?:\{(\w+)\})?", wording):
        pattern += re.escape(text)
        if name:
            what = PARTS.get(name, ".+")
            pattern += f"(?P={name})" if name in named else f"(?P<{name}>{what})"
            named.add(name)
    return pattern


PATTERNS = {
    name: [re.compile(_pattern(wording)) for wording in (*pool.seen, *pool.kept)]
    for name, pool in POOLS.items()
}


@cache
def _parse(question: str) -> tuple[str, dict[str, str]]:
    found = [
        (name, match.groupdict())
        for name, patterns in PATTERNS.items()
        for pattern in patterns
        if (match := pattern.fullmatch(question))
    ]
    assert len({name for name, _ in found}) == 1, question
    return min(found, key=lambda parse: len("".join(parse[1].values())))


def _middle(mark: Mark) -> tuple[float, float]:
    left, top, right, bottom = mark.box
    return (left + right) / 2, (top + bottom) / 2


def _see_things(marks: tuple[Mark, ...]) -> list[tuple[str, str, int]]:
    """Colour, shape and printed number (or 0) of each shape."""
    drawn = [mark for mark in marks if not mark.label.startswith("glyph:")]
    things = []
    for colour, shape in zip(drawn[::2], drawn[1::2], strict=True):
        left, top, right, bottom = colour.box
        digits = [
            mark.label[-1]
            for mark in marks
            if mark.label.startswith("glyph:")
            and left < _middle(mark)[0] < right
            and top < _middle(mark)[1] < bottom
        ]
        assert len(digits) <= 1
        number = int(digits[0]) if digits else 0
        things.append((colour.label.split(":")[1], shape.label.split(":")[1], number))
    return things


def _select(things: list[tuple[str, str, int]], name: str) -> list[tuple[str, str, int]]:
    """Things of a name such as "red shapes", "crosses" or "red cross"."""
    words = [re.sub(r"(?<=cross)es$|s$", "", word) if word != "cross" else word
             for word in name.split()]  # fmt: skip
    return [thing for thing in things if all(w in ("shape", *thing[:2]) for w in words)]


def _print_lines(marks: tuple[Mark, ...]) -> list[str]:
    """Text of each printed line, blanks left out: columns of a line belong together."""
    glyphs = [mark for mark in marks if mark.label.startswith("glyph:")]
    lines: list[list[Mark]] = []
    for mark in glyphs:  # printed line by line, from the left
        same = lines and mark.box[0] >= lines[-1][-1].box[0]
        tall = max(m.box[3] - m.box[1] for m in glyphs)
        if same and abs(_middle(mark)[1] - _middle(lines[-1][0])[1]) < tall:
            lines[-1].append(mark)
        else:
            lines.append([mark])
    return ["".join(mark.label[6:] for mark in line) for line in lines]


def _read_prices(marks: tuple[Mark, ...]) -> dict[str, int]:
    text = " ".join(_print_lines(marks))
    return {name: int(price) for name, price in re.findall(r"([a-z]+)[. :$]*(\d+)", text)}


def _basket(goods: str, prices: dict[str, int]) -> int:
    total = 0
    for item in goods.split(" and "):
        number, good = item.split()
        singular = good if good in prices else good.removesuffix("s")
        total += NUMBER_WORDS[number] * prices[singular]
    return total


def _list_names(names: str) -> list[str]:
    return re.split(r", | and the | and ", names)


def _answer(kind: str, parts: dict[str, str], marks: tuple[Mark, ...]) -> int:
    """Reckon from the marks alone."""
    things = _see_things(marks)
    if kind == "TOTAL":
        return sum(thing[2] for name in _list_names(parts["things"])
                   for thing in _select(things, name))  # fmt: skip
    if kind == "DIFFERENCE":
        ((*_, one),), ((*_, two),) = (_select(things, parts[key]) for key in ("one", "two"))
        return one - two
    if kind == "TOGETHER":
        return sum(len(_select(things, name)) for name in _list_names(parts["things"]))
    if kind == "MORE":
        return len(_select(things, parts["one"])) - len(_select(things, parts["two"]))
    if kind == "TAKEN":
        return len(_select(things, parts["things"])) - int(parts["num"])
    if kind == "RESULT":
        lines = {line[0]: line[2:] for line in _print_lines(marks) if line[1] == ":"}
        text = lines[parts["which"][-1]] if lines else _print_lines(marks)[0].removesuffix("=?")
        return sum(int(term) for term in re.findall(r"[-+]?\d+", text))
    prices = _read_prices(marks)
    if kind == "DEARER":
        return prices[parts["one"]] - prices[parts["two"]]
    cost = _basket(parts["goods"], prices)
    return int(parts["money"]) - cost if kind == "CHANGE" else cost


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_reckoning_from_what_is_marked_gives_the_answer(level: float) -> None:
    asked = Counter()
    for drawing in _drawings(150, level):
        for turn in drawing.turns:
            kind, parts = _parse(turn.question)
            assert turn.answer == str(_answer(kind, parts, drawing.marks[0])), turn
            asked[kind] += 1
    assert set(asked) == set(POOLS)


def _num_blobs(drawing: Drawing) -> int:
    """Groups of touching pixels that are not background, found by spreading labels."""
    pixels = np.asarray(drawing.images[0].reduce(2), int)
    ink = np.abs(pixels - pixels[0, 0]).max(axis=2) > 40
    labels = np.where(ink, np.arange(1, ink.size + 1).reshape(ink.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        spread = np.max(
            [padded[y : y + len(ink), x : x + len(ink[0])] for y in range(3) for x in range(3)],
            axis=0,
        )
        spread[~ink] = 0
        if np.array_equal(spread, labels):
            return len(np.unique(labels)) - 1
        labels = spread


def test_the_pixels_show_as_many_shapes_as_are_counted() -> None:
    num_checked = 0
    for drawing in _drawings(120):
        labels = [mark.label.split(":")[0] for mark in drawing.marks[0]]
        if "glyph" not in labels:
            assert _num_blobs(drawing) == labels.count("shape")
            num_checked += 1
    assert num_checked > 15


def test_every_step_holds_and_the_last_gives_the_answer() -> None:
    for drawing in _drawings(300):
        for turn in drawing.turns:
            steps = re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", turn.reasoning)
            for one, sign, two, result in steps:
                a, b = int(one), int(two)
                assert int(result) == {"+": a + b, "-": a - b, "*": a * b}[sign]
            assert steps[-1][-1] == turn.answer
            assert 0 <= int(turn.answer) <= 30
            assert len(re.findall(r"[A-Za-z]+|\d|[^\w\s]", turn.reasoning)) <= 40
            assert turn.kind in ("two steps", "three steps")


def test_no_answer_can_be_guessed_from_the_question() -> None:
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for drawing in _drawings(300):
        for turn in drawing.turns:
            answers[_parse(turn.question)[0]][turn.answer] += 1
    for name, counts in answers.items():
        limit = 0.4 if name in ("MORE", "TAKEN") else 0.25  # few can be right
        assert counts.most_common(1)[0][1] / counts.total() < limit, name


def test_print_stays_legible_when_pressed_into_a_tile() -> None:
    for drawing in _drawings(200):
        down = TILE_SIZE / drawing.images[0].height
        heights = [m.box[3] - m.box[1] for m in drawing.marks[0] if m.label[-1].isdigit()]
        assert min(heights, default=99) * down >= 9


def test_a_low_level_has_smaller_numbers() -> None:
    easy, hard = (
        np.mean([int(turn.answer) for drawing in _drawings(150, level) for turn in drawing.turns])
        for level in (0.0, 1.0)
    )
    assert easy < 0.8 * hard


def test_a_number_in_words_is_right_and_two_numbers_are_not() -> None:
    turn = Turn("What is the result of the sum?", "7", "two steps")
    for right in ("7", "seven", "The result is 7."):
        assert SUMS.score(turn, right) == {"right": 1.0}
    for wrong in ("", "8", "3 + 4 = 7", "-7", "9" * 5000):
        assert SUMS.score(turn, wrong) == {"right": 0.0}


def test_each_pool_has_many_wordings() -> None:
    for pool in POOLS.values():
        assert isinstance(pool, Pool)
        assert len({*pool.seen, *pool.kept}) >= 12
        assert len(pool.kept) >= 3
