import random
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import MathTextParser
from numpy.typing import NDArray

from internvl35.data.synthetic import FAMILIES, Drawing, Turn, draw
from internvl35.data.synthetic.code.formula_grammar import MAX_TOKENS, choose_formula, spell
from internvl35.data.synthetic.code.formula_layout import lay_out, print_formula
from internvl35.data.synthetic.code.formulas import FONTSETS, normalize_latex
from internvl35.data.synthetic.drawing import Chance

FORMULAS = FAMILIES["formulas"]
ALL_FONTSETS = (*FONTSETS.seen, *FONTSETS.kept)
_TOKEN = re.compile(r"\\[a-z]+|[^\s\\]")


@cache
def _drawings(num: int, level: float = 1.0) -> tuple[Drawing, ...]:
    return tuple(draw("formulas", "test", index, level) for index in range(num))


def _whole(drawing: Drawing) -> str:
    return next(turn.answer for turn in drawing.turns if turn.kind == "formula")


def _printed(formula: str, fontset: str) -> tuple[NDArray[np.uint8], list[str]]:
    ink, marks = print_formula(lay_out(_TOKEN.findall(formula), fontset), 40)
    return ink, [mark.label.removeprefix("glyph:") for mark in marks]


@pytest.mark.parametrize("fontset", ALL_FONTSETS)
@pytest.mark.parametrize(
    "formula",
    [r"a^2+b^2", r"\frac{x+1}{2}", r"\sqrt{3x}", r"\sum_{i=1}^ni", r"\int_0^1xdx", "x_1=5"],
)
def test_a_formula_is_as_large_as_matplotlib_prints_it(formula: str, fontset: str) -> None:
    ink, _ = _printed(formula, fontset)
    printed = formula.replace(r"\frac", r"\dfrac")
    font = FontProperties(size=40, math_fontfamily=fontset)
    image = np.asarray(MathTextParser("agg").parse(f"${printed}$", dpi=72, prop=font).image)
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert ink.shape[0] == pytest.approx(rows[-1] - rows[0] + 1, rel=0.15)
    assert ink.shape[1] == pytest.approx(columns[-1] - columns[0] + 1, rel=0.15)


@pytest.mark.parametrize("fontset", ALL_FONTSETS)
def test_characters_are_marked_in_the_order_they_stand(fontset: str) -> None:
    assert _printed("3x^2-7=(a+1)", fontset)[1] == list("3x2-7=(a+1)")
    assert _printed(r"\frac{n-5}{8}", fontset)[1] == list("n-58")


def test_a_fraction_stands_above_its_rule_and_its_rule_above_the_rest() -> None:
    ink, marks = print_formula(lay_out(_TOKEN.findall(r"\frac{a}{5}"), "cm"), 40)
    above, below = marks
    (rule,) = np.flatnonzero((ink == 255).all(axis=1))[[0]]
    assert above.box[3] < rule < below.box[1]


def test_marks_hold_ink_of_their_character_alone() -> None:
    for drawing in _drawings(60):
        image = np.asarray(drawing.images[0]).astype(int)
        paper = image[0, 0]
        is_ink = abs(image - paper).sum(axis=2) > 60
        assert is_ink.any()
        for mark in drawing.marks[0]:
            left, top, right, bottom = (round(edge) for edge in mark.box)
            assert is_ink[top:bottom, left:right].any(), mark
        # Nothing touches the rim, so nothing is cut off.
        assert not is_ink[:2].any()
        assert not is_ink[-2:].any()
        assert not is_ink[:, :2].any()
        assert not is_ink[:, -2:].any()


def test_every_digit_and_letter_of_the_answer_is_printed() -> None:
    for drawing in _drawings(60):
        formula = _whole(drawing)
        names = " ".join(re.findall(r"\\(sin|cos|tan|log|ln|exp|lim)", formula))
        expected = Counter(re.findall(r"[a-zA-Z0-9]", re.sub(r"\\[a-z]+", " ", formula) + names))
        marked = Counter(mark.label.removeprefix("glyph:") for mark in drawing.marks[0])
        for character, count in expected.items():
            assert marked[character] == count, (formula, character)


def test_sides_are_the_parts_of_the_equation() -> None:
    num = 0
    for drawing in _drawings(60):
        sides = [turn for turn in drawing.turns if turn.kind == "side"]
        for turn in sides:
            num += 1
            if "left" in turn.question:
                assert _whole(drawing).startswith(f"{turn.answer}=")
            else:
                assert _whole(drawing).endswith(f"={turn.answer}")
        assert len({turn.answer for turn in sides}) == len(sides)
    assert num > 24


def test_characters_stay_legible_when_pressed_into_one_tile() -> None:
    for drawing in _drawings(60):
        shrink = 192 / max(drawing.images[0].size)
        heights = [
            (mark.box[3] - mark.box[1]) * shrink
            for mark in drawing.marks[0]
            if mark.label.removeprefix("glyph:").isdigit()
        ]
        assert all(height >= 9 for height in heights), (heights, _whole(drawing))


@pytest.mark.parametrize(
    "same",
    [
        r"\frac{x^2}{2}",
        r"\frac{x^{2}}{2}",
        r"$ \frac { x ^ 2 } { 2 } $",
        r"\[\dfrac{x^{{2}}}2\]",
        "```latex\n\\frac{x^2}{2}\n```",
        r"\frac{x^2}{2}.",
    ],
)
def test_spellings_of_one_formula_are_equal(same: str) -> None:
    assert FORMULAS.score(Turn("q", r"\frac{x^2}{2}", "formula"), same) == {
        "right": 1,
        "characters": 1,
    }


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\int_0^1x", r"\int^1_0 x"),
        (r"\left(x\right)", "(x)"),
        (r"x\,dx", "xdx"),
        (r"x\le 2", r"x\leq2"),
        (r"\sin x", r"\sin{x}"),
    ],
)
def test_what_prints_alike_is_equal(one: str, other: str) -> None:
    assert normalize_latex(one) == normalize_latex(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x^{12}", "x^12"),
        ("x_2", "x^2"),
        ("a-b", "a+b"),
        (r"\frac{a}{b}", r"\frac{b}{a}"),
        ("x", "X"),
    ],
)
def test_what_prints_differently_is_not_equal(one: str, other: str) -> None:
    score = FORMULAS.score(Turn("q", one, "formula"), other)
    assert score["right"] == 0
    assert 0 <= score["characters"] < 1


@pytest.mark.parametrize(
    "answer", ["", "{" * 5000, "}" * 5000, "^_" * 3000, "\\", "{}" * 900, "$$"]
)
def test_no_answer_stops_the_comparison(answer: str) -> None:
    score = FORMULAS.score(Turn("q", "x^2", "formula"), answer)
    assert score["right"] == 0


def test_blanks_stand_only_where_a_command_meets_a_letter() -> None:
    assert spell(["\\sin", "x", "+", "\\pi", "r", "\\cdot", "2"]) == "\\sin x+\\pi r\\cdot2"


def test_formulas_are_short_and_seldom_the_same() -> None:
    formulas = []
    for index in range(600):
        left, right = choose_formula(Chance(random.Random(index)))
        formulas.append(spell([*left, "=", *right] if right else left))
    assert max(len(_TOKEN.findall(formula)) for formula in formulas) <= MAX_TOKENS
    assert Counter(formulas).most_common(1)[0][1] <= 4
    for part in (r"\frac", r"\sqrt", r"\int", r"\sum", r"\sin", "^", "_", "=", r"\alpha"):
        assert any(part in formula for formula in formulas), part


def test_the_kept_typeface_is_for_the_test_alone() -> None:
    assert any("fontset" in drawing.unseen for drawing in _drawings(60))
    assert not any("fontset" in draw("formulas", "train", index).unseen for index in range(20))


def test_easy_formulas_are_short_sums_in_black_on_white() -> None:
    for drawing in _drawings(30, level=0.0):
        assert not re.search(r"\\(frac|sqrt|int|sum|sin)", _whole(drawing))
        assert drawing.images[0].getpixel((0, 0)) == (255, 255, 255)
        assert drawing.images[0].size == (192, 192)
