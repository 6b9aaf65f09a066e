r"""Making up short formulas: sums, powers, fractions, roots, functions, integrals, limits.

Printing them is left to :mod:`internvl35.data.synthetic.code.formula_layout`, questions to
:mod:`internvl35.data.synthetic.code.formulas`. No counterpart in the paper.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable

from internvl35.data.synthetic.drawing import Chance

MAX_TOKENS = 20
"""Longest formula in LaTeX tokens, blanks not counted."""

_LATIN = "abcdkmnpqrstuvxyz"
_GREEK = (
    r"\alpha", r"\beta", r"\gamma", r"\delta", r"\theta", r"\lambda", r"\mu", r"\pi", r"\sigma",
    r"\omega",
)  # fmt: skip
_FUNCTIONS = (r"\sin", r"\cos", r"\tan", r"\log", r"\ln", r"\exp")
_RELATIONS = ("<", ">", r"\leq", r"\geq", r"\neq", r"\approx")

Tokens = list[str]


def _letter(rng: random.Random) -> str:
    return rng.choice("xyzabn") if rng.random() < 0.6 else rng.choice(_LATIN)


def _symbol(rng: random.Random) -> str:
    return rng.choice(_GREEK) if rng.random() < 0.2 else _letter(rng)


def _number(rng: random.Random) -> Tokens:
    return [str(rng.randint(1, 9))] if rng.random() < 0.8 else list(str(rng.randint(10, 99)))


def _braced(tokens: Tokens) -> Tokens:
    return tokens if len(tokens) == 1 else ["{", *tokens, "}"]


def _power(rng: random.Random) -> Tokens:
    top = rng.choice((["2"], ["2"], ["3"], ["n"], [str(rng.randint(4, 9))], ["n", "+", "1"]))
    return [_symbol(rng), "^", *_braced(top)]


def _indexed(rng: random.Random) -> Tokens:
    low = rng.choice((["1"], ["2"], ["0"], ["n"], ["i"], ["k"], ["n", "+", "1"]))
    return [_letter(rng), "_", *_braced(low)]


def _term(rng: random.Random) -> Tokens:
    kind = rng.random()
    if kind < 0.25:
        return [_symbol(rng)]
    if kind < 0.45:
        return _number(rng)
    if kind < 0.62:
        return [str(rng.randint(2, 9)), _letter(rng)]
    if kind < 0.84:
        return _power(rng)
    return _indexed(rng)


def _sum(rng: random.Random, num: int) -> Tokens:
    tokens = _term(rng)
    for _ in range(num - 1):
        tokens += [rng.choice("++--" if rng.random() < 0.85 else (r"\cdot", r"\times", r"\pm"))]
        tokens += _term(rng)
    return tokens


def _fraction(rng: random.Random) -> Tokens:
    top, bottom = (_sum(rng, rng.choice((1, 1, 2))) for _ in range(2))
    return [r"\frac", "{", *top, "}", "{", *bottom, "}"]


def _root(rng: random.Random) -> Tokens:
    return [r"\sqrt", "{", *_sum(rng, rng.choice((1, 1, 2))), "}"]


def _function(rng: random.Random) -> Tokens:
    name = rng.choice(_FUNCTIONS)
    if rng.random() < 0.4:
        return [name, "(", *_sum(rng, 2), ")"]
    head = [name, "^", "2"] if name in _FUNCTIONS[:3] and rng.random() < 0.25 else [name]
    return [*head, *(_number(rng) if rng.random() < 0.4 else []), _symbol(rng)]


def _integral(rng: random.Random) -> Tokens:
    low, high = rng.choice((("0", "1"), ("a", "b"), ("0", r"\infty"), ("1", "2"), ("0", r"\pi")))
    variable = rng.choice("xt")
    inside = rng.choice(
        ([variable], [variable, "^", str(rng.randint(2, 5))], ["f", "(", variable, ")"])
    )
    limits = ["_", low, "^", high] if rng.random() < 0.75 else []
    return [r"\int", *limits, *inside, "d", variable]


def _long_sum(rng: random.Random) -> Tokens:
    index = rng.choice("ikn")
    top = rng.choice((["n"] if index != "n" else ["m"], [r"\infty"], _number(rng)))
    inside = rng.choice(
        (
            [index],
            [index, "^", "2"],
            [_letter(rng), "_", index],
            [r"\frac", "{", "1", "}", "{", index, "}"],
        )
    )
    low = ["{", index, "=", rng.choice("01"), "}"]
    return [rng.choice((r"\sum", r"\sum", r"\prod")), "_", *low, "^", *_braced(top), *inside]


def _limit(rng: random.Random) -> Tokens:
    variable = rng.choice("xn")
    end = r"\infty" if variable == "n" else rng.choice(("0", r"\infty", "a"))
    inside = _fraction(rng) if rng.random() < 0.5 else [*_indexed(rng)]
    return [r"\lim", "_", "{", variable, r"\to", end, "}", *inside]


def _called(rng: random.Random) -> Tokens:
    return [rng.choice("fgh"), "(", rng.choice("xtn"), ")"]


def _product(rng: random.Random) -> Tokens:
    return [*([str(rng.randint(2, 9))] if rng.random() < 0.5 else []), "(", *_sum(rng, 2), ")"]


def _expression(rng: random.Random) -> Tokens:
    makers: tuple[Callable[[random.Random], Tokens], ...] = (
        _fraction, _fraction, _root, _function, _integral, _long_sum, _limit, _product,
    )  # fmt: skip
    return rng.choice(makers)(rng)


def choose_formula(chance: Chance) -> tuple[Tokens, Tokens]:
    """Make up a formula.

    Args:
        chance: an easy formula is a sum of one or two terms.

    Returns:
        Tokens left of the equals sign and right of it; the second is empty if there is none.
    """
    rng = chance.rng
    if not chance.is_hard():
        return _sum(rng, rng.randint(1, 2)), []
    while True:
        kind = rng.random()
        left, right = _expression(rng), []
        if kind < 0.2:
            left, right = _sum(rng, rng.randint(1, 2)), _sum(rng, rng.randint(1, 2))
        elif kind < 0.4:
            head = _called(rng) if rng.random() < 0.5 else [_letter(rng)]
            left, right = head, rng.choice((_expression, lambda r: _sum(r, 2)))(rng)
        elif kind < 0.5:
            left = [*_sum(rng, 1), rng.choice(_RELATIONS), *_sum(rng, 1)]
        elif kind < 0.65:
            left = _sum(rng, rng.randint(1, 3))
        elif kind < 0.8:
            left = [*left, rng.choice("+-"), *_term(rng)]
        if len(left) + len(right) < MAX_TOKENS:
            return left, right


def spell(tokens: Iterable[str]) -> str:
    """Write tokens of LaTeX, with blanks only where a command would run into a letter."""
    text = ""
    for token in tokens:
        if token[0].isalpha() and re.search(r"\\[a-zA-Z]+\Z", text):
            text += " "
        text += token
    return text
