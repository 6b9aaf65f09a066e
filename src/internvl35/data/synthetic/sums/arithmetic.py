"""Sums without a picture: plus, minus, times, and word problems with small numbers.

Sums over pictures are left to :mod:`internvl35.data.synthetic.sums.sums`. No counterpart in the
paper; reasoning before an answer is that of section 2.2.
"""

from __future__ import annotations

from collections.abc import Callable

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn, wordings

PLUS_WORDINGS = wordings(
    "{a} + {b} = ?",
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "Add {a} and {b}.",
    "{a} + {b}",
    "How much is {a} plus {b}?",
    "What is the sum of {a} and {b}?",
    "{a} plus {b}?",
    "How much is {a} + {b}?",
    "Calculate {a} + {b}.",
    "Please add {a} and {b}.",
    "What do you get if you add {a} and {b}?",
    "{a} + {b} =",
    "Compute {a} + {b}.",
    "What does {a} + {b} make?",
    "Give the sum of {a} and {b}.",
)
"""Ways to ask for a sum."""

MINUS_WORDINGS = wordings(
    "{a} - {b} = ?",
    "What is {a} - {b}?",
    "What is {a} minus {b}?",
    "Subtract {b} from {a}.",
    "{a} - {b}",
    "How much is {a} minus {b}?",
    "Take {b} away from {a}.",
    "{a} minus {b}?",
    "How much is {a} - {b}?",
    "Calculate {a} - {b}.",
    "What is left if you take {b} from {a}?",
    "Please subtract {b} from {a}.",
    "{a} - {b} =",
    "Compute {a} - {b}.",
    "What do you get if you subtract {b} from {a}?",
    "Calculate {a} minus {b}.",
)
"""Ways to ask for a difference."""

TIMES_WORDINGS = wordings(
    "{a} * {b} = ?",
    "What is {a} * {b}?",
    "What is {a} times {b}?",
    "Multiply {a} by {b}.",
    "{a} x {b} = ?",
    "How much is {a} times {b}?",
    "What is the product of {a} and {b}?",
    "{a} times {b}?",
    "{a} * {b}",
    "Calculate {a} * {b}.",
    "Multiply {a} and {b}.",
    "How much is {a} * {b}?",
    "What is {a} x {b}?",
    "Compute {a} times {b}.",
    "What do you get if you multiply {a} by {b}?",
    "Calculate {a} times {b}.",
)
"""Ways to ask for a product."""

GAIN_WORDINGS = wordings(
    "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
    "{name} has {a} {things}. {friend} gives {name} {b} more. How many {things} are there?",
    "There are {a} {things} in a box. {name} puts in {b} more. How many are in the box?",
    "{name} finds {a} {things}, then {b} more. How many {things} does {name} find?",
    "{name} has {a} {things} and {friend} has {b}. How many {things} do they have together?",
    "{name} buys {a} {things} and then {b} more. How many {things} is that?",
    "{a} {things} are on the table. {name} brings {b} more. How many are there now?",
    "If {name} has {a} {things} and gets {b} more, how many does {name} have?",
    "{name} sees {a} {things} and {friend} sees {b} others. How many do they see?",
    "{name} has {a} {things}. {name} gets {b} more {things}. How many is that in all?",
    "{name} and {friend} have {a} and {b} {things}. How many do they have in all?",
    "{name} has {a} {things}, {friend} brings {b} more. How many {things} are there together?",
)
"""Stories in which ``{b}`` come to ``{a}``."""

LOSS_WORDINGS = wordings(
    "{name} has {a} {things} and gives {b} away. How many {things} are left?",
    "{name} has {a} {things}. {name} loses {b}. How many {things} does {name} have now?",
    "There are {a} {things} in a box. {name} takes out {b}. How many are left?",
    "{name} has {a} {things} and gives {b} to {friend}. How many does {name} have left?",
    "{a} {things} are on the table. {name} takes {b} away. How many are there now?",
    "If {name} has {a} {things} and loses {b}, how many are left?",
    "{name} had {a} {things} and sold {b}. How many {things} are left?",
    "{name} has {a} {things}. {friend} takes {b} of them. How many are left for {name}?",
    "Of {a} {things}, {b} are gone. How many {things} are left?",
    "{name} has {a} {things} and {friend} has {b} fewer. How many does {friend} have?",
    "{name} had {a} {things} and lost {b} of them. How many does {name} have now?",
    "{name} gives away {b} of {a} {things}. How many {things} does {name} keep?",
)
"""Stories in which ``{b}`` of ``{a}`` go."""

GROUP_WORDINGS = wordings(
    "There are {a} bags with {b} {things} each. How many {things} are there?",
    "{name} has {a} boxes with {b} {things} in each. How many {things} does {name} have?",
    "{name} buys {a} bags of {b} {things}. How many {things} is that?",
    "Each of {a} children has {b} {things}. How many {things} are there?",
    "{name} fills {a} boxes with {b} {things} each. How many {things} is that?",
    "In each of {a} boxes are {b} {things}. How many {things} are there in all?",
    "{a} children get {b} {things} each. How many {things} do they get?",
    "{name} has {a} bags. In each bag are {b} {things}. How many {things} is that?",
    "{a} boxes hold {b} {things} each. How many {things} do they hold?",
    "If {a} bags hold {b} {things} each, how many {things} are there?",
    "{name} lays {a} rows of {b} {things}. How many {things} does {name} need?",
    "{name} sees {a} tables with {b} {things} on each. How many {things} is that?",
)
"""Stories with ``{a}`` groups of ``{b}``."""

NAMES: Pool[str] = Pool(
    "name",
    ("Tom", "Anna", "Ben", "Mia", "Sam", "Lena", "Max", "Eva", "Paul", "Lily", "Omar", "Mei"),
    ("Nora", "Tim", "Ivan", "Ada"),
)
"""Who the stories are about."""

THINGS: Pool[str] = Pool(
    "noun",
    (
        "apples", "pears", "books", "pens", "balls", "cards", "eggs", "coins", "stones", "cakes",
        "toys", "stars", "hats", "cups", "birds", "fish", "flowers", "shells", "nuts", "stamps",
    ),
    ("plums", "keys", "leaves", "rings"),
)  # fmt: skip
"""What is counted in the stories."""

_TEN = 10  # below it every sum is one step; past it a carry is a step of its own


class Arithmetic:
    """One sum with small numbers a question; the answer is a number in digits."""

    name = "arithmetic"

    def draw(self, chance: Chance) -> Drawing:
        """Ask three to five sums; a higher level has larger numbers."""
        num = chance.rng.randint(3, 5)
        makers = chance.rng.choices((_plus, _minus, _times, _story), (3, 3, 3, 4), k=num)
        turns = {turn.question: turn for turn in (make(chance) for make in makers)}
        return Drawing(self.name, (), tuple(turns.values()), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer states the expected number and no other."""
        return score_short(turn, answer)


def explain_sum(a: int, b: int) -> str:
    """Steps of a sum of a number and a smaller one of a digit, over the next full ten.

    Args:
        a: from 0.
        b: from 0 to 10.

    Returns:
        One step, or two where a number of two digits runs over a ten: ``27 + 3 = 30; 30 + 2 = 32``.
    """
    rest = -a % _TEN
    if a < _TEN or b <= rest or rest == 0:
        return f"{a} + {b} = {a + b}"
    return f"{a} + {rest} = {a + rest}; {a + rest} + {b - rest} = {a + b}"


def explain_difference(a: int, b: int) -> str:
    """Steps of a difference, over the full ten below.

    Args:
        a: not less than ``b``.
        b: from 0.

    Returns:
        One step, or two where a number runs below a ten: ``32 - 2 = 30; 30 - 3 = 27``.
    """
    rest = a % _TEN
    if a < 2 * _TEN or b <= rest or b > _TEN or rest == 0:
        return f"{a} - {b} = {a - b}"
    return f"{a} - {rest} = {a - rest}; {a - rest} - {b - rest} = {a - b}"


def _plus(chance: Chance) -> Turn:
    rng = chance.rng
    if not chance.is_hard():
        a, b = rng.randint(0, 5), rng.randint(0, 5)
    elif rng.random() < 0.3:
        a, b = rng.randint(11, 90), rng.randint(1, 9)
    else:
        total = rng.randint(2, 20)
        a = rng.randint(max(0, total - 12), min(12, total))
        b = total - a
    parts = {"a": a, "b": b}
    answer, steps = str(a + b), explain_sum(a, b)
    return chance.turn(PLUS_WORDINGS, answer, "plus", parts=parts, reasoning=steps)


def _minus(chance: Chance) -> Turn:
    rng = chance.rng
    if not chance.is_hard():
        b = rng.randint(0, 5)
        a = b + rng.randint(0, 5)
    elif rng.random() < 0.3:
        a, b = rng.randint(20, 99), rng.randint(1, 9)
    else:
        a = rng.randint(4, 20)
        b = rng.randint(0, a)
    parts = {"a": a, "b": b}
    answer, steps = str(a - b), explain_difference(a, b)
    return chance.turn(MINUS_WORDINGS, answer, "minus", parts=parts, reasoning=steps)


def _times(chance: Chance) -> Turn:
    most = 9 if chance.is_hard() else 4
    a, b = chance.rng.randint(1, most), chance.rng.randint(1, most)
    parts = {"a": a, "b": b}
    return chance.turn(
        TIMES_WORDINGS, str(a * b), "times", parts=parts, reasoning=f"{a} * {b} = {a * b}"
    )


def _gain(chance: Chance, most: int) -> tuple[int, int, int, str]:
    a, b = chance.rng.randint(2, most), chance.rng.randint(2, most)
    return a, b, a + b, f"{a} + {b} = {a + b}"


def _lose(chance: Chance, most: int) -> tuple[int, int, int, str]:
    b = chance.rng.randint(2, most)
    a = b + chance.rng.randint(1, most)
    return a, b, a - b, f"{a} - {b} = {a - b}"


def _group(chance: Chance, most: int) -> tuple[int, int, int, str]:
    a, b = chance.rng.randint(2, min(6, most)), chance.rng.randint(2, most)
    return a, b, a * b, f"{a} * {b} = {a * b}"


_STORIES: tuple[tuple[Pool[str], Callable[[Chance, int], tuple[int, int, int, str]]], ...] = (
    (GAIN_WORDINGS, _gain),
    (LOSS_WORDINGS, _lose),
    (GROUP_WORDINGS, _group),
)


def _story(chance: Chance) -> Turn:
    asked, choose = chance.rng.choice(_STORIES)
    a, b, result, steps = choose(chance, 9 if chance.is_hard() else 4)
    name = chance.pick(NAMES)
    friend = chance.rng.choice([other for other in NAMES.seen if other != name])
    parts = {"name": name, "friend": friend, "things": chance.pick(THINGS), "a": a, "b": b}
    return chance.turn(asked, str(result), "word problem", parts=parts, reasoning=steps)
