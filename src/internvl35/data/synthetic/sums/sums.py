"""Sums over pictures: numbers on shapes, prices, counts and printed sums, in two or three steps.

Pictures are left to :mod:`internvl35.data.synthetic.sums.sum_pictures`, sums without a picture to
:mod:`internvl35.data.synthetic.sums.arithmetic`. No counterpart in the paper; reasoning before an
answer is that of section 2.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import place_on_one_tile
from internvl35.data.synthetic.colours import choose_background, colours_on
from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn
from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.naming import plural, with_article
from internvl35.data.synthetic.shapes.things import Thing, draw_things, mark_things
from internvl35.data.synthetic.sums.sum_pictures import (
    GOODS,
    Picture,
    draw_lines,
    draw_numbered,
    draw_prices,
)
from internvl35.data.synthetic.sums.sum_wordings import (
    CHANGE_WORDINGS,
    DEARER_WORDINGS,
    DIFFERENCE_WORDINGS,
    MORE_WORDINGS,
    PRICE_WORDINGS,
    RESULT_WORDINGS,
    TAKEN_WORDINGS,
    TOGETHER_WORDINGS,
    TOTAL_WORDINGS,
)

MAX_RESULT = 30
"""Largest answer."""

MAX_TURNS = 5
"""Most questions about a picture."""

_NUMBER_WORDS = ("zero", "one", "two", "three", "four")


class Sums:
    """Numbers in a picture and what comes of them; the answer is a number from 0 to 30."""

    name = "sums"

    def draw(self, chance: Chance) -> Drawing:
        """Draw one of four sorts of picture; a higher level has more and larger numbers."""
        make = chance.rng.choice((_draw_shapes, _draw_prices, _draw_counts, _draw_printed))
        while True:
            chance = chance.begin_again()
            (image, marks), turns = make(chance)
            if turns:
                break
        chosen = chance.rng.sample(turns, min(len(turns), MAX_TURNS))
        return Drawing(self.name, (image,), tuple(chosen), (marks,), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer states the expected number and no other."""
        return score_short(turn, answer)


def add_up(numbers: Sequence[int], signs: Sequence[str]) -> tuple[str, int]:
    """Write a sum down step by step.

    Args:
        numbers: at least one.
        signs: ``+`` or ``-`` before each but the first.

    Returns:
        Steps such as ``3 + 4 = 7; 7 - 2 = 5``, and the result; no step for a single number.
    """
    steps: list[str] = []
    total = numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        result = total + number if sign == "+" else total - number
        steps.append(f"{total} {sign} {number} = {result}")
        total = result
    return "; ".join(steps), total


def _turn(
    chance: Chance,
    asked: Pool[str],
    seen: Sequence[str],
    numbers: Sequence[int],
    signs: str = "+",
    **parts: object,
) -> Turn:
    """Ask for a sum of what is seen first; two numbers make two steps, more make three."""
    steps, total = add_up(numbers, signs * (len(numbers) - 1) if len(signs) == 1 else signs)
    kind = "two steps" if len(numbers) == 2 else "three steps"
    return chance.turn(asked, str(total), kind, parts=parts, reasoning="; ".join((*seen, steps)))


def _draw_shapes(chance: Chance) -> tuple[Picture, list[Turn]]:
    rng = chance.rng
    num = rng.randint(3, 5) if chance.is_hard() else 3
    canvas, boxes = place_on_one_tile(chance, num, (38, 62) if chance.is_hard() else (46, 62))
    background = choose_background(chance)
    colours = rng.sample(colours_on(background), 2)
    left_out = rng.choice(("square", "rectangle"))  # a square is a rectangle, too
    shapes = rng.sample([name for name in SHAPES if name != left_out], 2 if num < 5 else 3)
    things = [Thing(rng.choice(colours), rng.choice(shapes), box) for box in boxes]
    things.sort(key=lambda thing: thing.middle[0])  # steps name numbers from left to right
    numbers = [rng.randint(1, 9 if chance.is_hard() else 5) for _ in things]
    turns: list[Turn] = []
    groups = {f"{colour} shapes": [t.colour == colour for t in things] for colour in colours}
    groups |= {plural(shape): [t.shape == shape for t in things] for shape in shapes}
    for name, members in groups.items():
        chosen = [n for n, is_member in zip(numbers, members, strict=True) if is_member]
        if 2 <= len(chosen) <= 3:
            found = f"{name}: {', '.join(map(str, chosen))}"
            turns.append(_turn(chance, TOTAL_WORDINGS, [found], chosen, things=name))
    names = [thing.name for thing in things]
    single = [
        (number, name)
        for number, name in zip(numbers, names, strict=True)
        if names.count(name) == 1
    ]
    pairs = list(combinations(single, 2))
    for (one, first), (two, second) in rng.sample(pairs, min(2, len(pairs))):
        seen = [f"{first}: {one}", f"{second}: {two}"]
        both = f"{first} and the {second}"
        turns.append(_turn(chance, TOTAL_WORDINGS, seen, (one, two), things=both))
    for more, less in _choose_unequal(chance, single, 2):
        turns.append(_compare(chance, DIFFERENCE_WORDINGS, more, less))
    return draw_numbered(chance, canvas, things, numbers, background), turns


def _choose_unequal(
    chance: Chance, known: Sequence[tuple[int, str]], num: int
) -> list[tuple[tuple[int, str], tuple[int, str]]]:
    """Pairs of unlike numbers, the larger first; small differences are no commoner than others."""
    pairs = [(max(pair), min(pair)) for pair in combinations(known, 2) if pair[0][0] != pair[1][0]]
    chosen: list[tuple[tuple[int, str], tuple[int, str]]] = []
    while pairs and len(chosen) < num:
        weights = [(more[0] - less[0]) ** 2 for more, less in pairs]
        chosen.append(chance.rng.choices(pairs, weights)[0])
        pairs.remove(chosen[-1])
    return chosen


def _compare(
    chance: Chance, asked: Pool[str], more: tuple[int, str], less: tuple[int, str]
) -> Turn:
    seen = [f"{name}: {number}" for number, name in (more, less)]
    return _turn(chance, asked, seen, (more[0], less[0]), "-", one=more[1], two=less[1])


def _draw_prices(chance: Chance) -> tuple[Picture, list[Turn]]:
    rng = chance.rng
    goods: list[tuple[str, str]] = []
    num = rng.randint(2, 4) if chance.is_hard() else 2
    while len(goods) < num:
        good = chance.pick(GOODS)
        if good not in goods:
            goods.append(good)
    prices = [rng.randint(1, 9 if chance.is_hard() else 5) for _ in goods]
    turns: list[Turn] = []
    for one, two in rng.sample(list(combinations(range(num), 2)), 1 if num == 2 else 2):
        first, second = rng.sample((one, two), 2)
        names = goods[first][0], goods[second][0]
        costs = prices[first], prices[second]
        seen = [f"{name}: {cost}" for name, cost in zip(names, costs, strict=True)]
        pair = " and ".join(map(with_article, names))
        turns.append(_turn(chance, PRICE_WORDINGS, seen, costs, goods=pair))
        turns.append(_buy_several(chance, goods[first], costs[0], (names[1], costs[1])))
        money = rng.choice([part for part in (10, 15, 20) if part >= sum(costs)])
        turns.append(
            _turn(chance, CHANGE_WORDINGS, seen, (money, *costs), "-", money=money, goods=pair)
        )
    known = [(price, one) for price, (one, _) in zip(prices, goods, strict=True)]
    for more, less in _choose_unequal(chance, known, 2):
        turns.append(_compare(chance, DEARER_WORDINGS, more, less))
    picture = draw_prices(chance, [one for one, _ in goods], prices)
    return picture, turns


def _buy_several(chance: Chance, good: tuple[str, str], price: int, other: tuple[str, int]) -> Turn:
    """Ask for two or three of one thing and one of another."""
    num = 2 if 3 * price + other[1] > MAX_RESULT else chance.rng.choice((2, 2, 3))
    goods = f"{_NUMBER_WORDS[num]} {good[1]} and {with_article(other[0])}"
    total = num * price + other[1]
    steps = (
        f"{good[0]}: {price}; {other[0]}: {other[1]}; {num} * {price} = {num * price}; "
        f"{num * price} + {other[1]} = {total}"
    )
    return chance.turn(
        PRICE_WORDINGS, str(total), "three steps", parts={"goods": goods}, reasoning=steps
    )


def _draw_counts(chance: Chance) -> tuple[Picture, list[Turn]]:
    rng = chance.rng
    num_sorts = rng.choice((2, 2, 3)) if chance.is_hard() else 2
    counts = [rng.randint(1, 1 + most) for most in rng.sample(range(num_sorts + 1), num_sorts)]
    if num_sorts == 2 and chance.is_hard():  # three sorts mostly differ by 1 or 2
        more = rng.choice((0, 1, 2, 2, 3, 3, 4, 4))
        fewer = rng.randint(1, (8 - more) // 2)
        counts = rng.sample((fewer, fewer + more), 2)
    sides = (24, 42) if sum(counts) > 5 else (28, 50)
    canvas, boxes = place_on_one_tile(chance, sum(counts), sides)
    background = choose_background(chance)
    left_out = rng.choice(("square", "rectangle"))
    shapes = rng.sample([name for name in SHAPES if name != left_out], num_sorts)
    colours = rng.sample(colours_on(background), num_sorts)
    is_by_colour = rng.random() < 0.4  # then sorts differ in colour, else in shape
    things: list[Thing] = []
    for number, count in enumerate(counts):
        for _ in range(count):
            colour = colours[number] if is_by_colour else rng.choice(colours)
            shape = rng.choice(shapes) if is_by_colour else shapes[number]
            things.append(Thing(colour, shape, boxes[len(things)]))
    names = [f"{colour} shapes" for colour in colours] if is_by_colour else map(plural, shapes)
    sorts = list(zip(names, counts, strict=True))
    turns: list[Turn] = []
    for first, second in combinations(rng.sample(sorts, num_sorts), 2):
        seen = [f"{name}: {count}" for name, count in (first, second)]
        both = f"{first[0]} and {second[0]}"
        pair = (first[1], second[1])
        turns.append(_turn(chance, TOGETHER_WORDINGS, seen, pair, things=both))
    if num_sorts == 3:
        one, two, three = rng.sample(sorts, 3)
        seen = [f"{name}: {count}" for name, count in (one, two, three)]
        all_sorts = f"{one[0]}, {two[0]} and {three[0]}"
        numbers = (one[1], two[1], three[1])
        turns.append(_turn(chance, TOGETHER_WORDINGS, seen, numbers, things=all_sorts))
    known = [(count, name) for name, count in sorts]
    for more_of, less_of in _choose_unequal(chance, known, 1):
        turns.append(_compare(chance, MORE_WORDINGS, more_of, less_of))
    total = sum(counts)
    if total > 2:
        taken = rng.randint(2, min(4, total - 1))
        turns.append(
            _turn(
                chance, TAKEN_WORDINGS, [f"shapes: {total}"], (total, taken), "-",
                num=taken, things="shapes",
            )
        )  # fmt: skip
    image = draw_things(chance, canvas, things, background)
    return (image, mark_things(things)), turns


def _make_sum(chance: Chance, num: int) -> tuple[list[int], list[str]]:
    """Numbers and signs of a sum that neither falls below 0 nor exceeds the largest answer."""
    rng = chance.rng
    most = 12 if chance.is_hard() else 5
    while True:
        numbers = [rng.randint(1, most) for _ in range(num)]
        signs = [rng.choice("+-") for _ in numbers[1:]]
        totals = [add_up(numbers[:end], signs[: end - 1])[1] for end in range(1, num + 1)]
        if min(totals) >= 0 and max(totals) <= MAX_RESULT:
            return numbers, signs


def _draw_printed(chance: Chance) -> tuple[Picture, list[Turn]]:
    rng = chance.rng
    num_lines = rng.choice((1, 2, 3, 3, 4, 4)) if chance.is_hard() else rng.randint(1, 2)
    lines: list[str] = []
    turns: list[Turn] = []
    for number in range(num_lines):
        numbers, signs = _make_sum(chance, rng.choice((2, 3)))
        text = str(numbers[0])
        for sign, part in zip(signs, numbers[1:], strict=True):
            text += f" {sign} {part}"
        letter = "ABCD"[number]
        which = "the sum" if num_lines == 1 else f"sum {letter}"
        steps = _turn(chance, RESULT_WORDINGS, (), numbers, "".join(signs), which=which)
        turns.append(steps)
        lines.append(f"{text} = ?" if num_lines == 1 else f"{letter}: {text}")
    return draw_lines(chance, lines), turns
