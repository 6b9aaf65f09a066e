"""What charts show: labels, values that can be read off exactly, and the scale they stand on.

Drawing is left to the charts of each kind, questions to
:mod:`internvl35.data.synthetic.charts.chart_questions`. No counterpart in the paper.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

from internvl35.data.synthetic.colours import colours_on
from internvl35.data.synthetic.drawing import Chance, Pool
from internvl35.data.synthetic.printed.paper import Paper

TOPICS: Pool[tuple[str, ...]] = Pool.split(
    "chart label",
    (
        ("Apple", "Pear", "Plum", "Fig", "Lime", "Kiwi", "Grape", "Melon"),
        ("Cat", "Dog", "Fish", "Bird", "Horse", "Frog", "Mouse", "Pig"),
        ("Bus", "Car", "Train", "Bike", "Tram", "Walk", "Boat", "Taxi"),
        ("Owl", "Fox", "Deer", "Hare", "Wolf", "Bear", "Boar", "Mole"),
        ("Tea", "Milk", "Juice", "Water", "Cola", "Coffee", "Cocoa", "Soda"),
        ("Rome", "Paris", "Oslo", "Bonn", "Lima", "Cairo", "Delhi", "Tokyo"),
        ("Ann", "Ben", "Tom", "Lucy", "Max", "Emma", "Sam", "Jane"),
        ("Nina", "Paul", "Dora", "Hugo", "Vera", "Ivan", "Rosa", "Karl"),
        ("Chess", "Judo", "Golf", "Swim", "Dance", "Run", "Ski", "Yoga"),
        ("Wood", "Iron", "Gold", "Glass", "Clay", "Stone", "Steel", "Wool"),
        ("Maths", "Art", "Music", "French", "Latin", "Sport", "Drama", "Logic"),
        ("Beans", "Corn", "Peas", "Onion", "Leek", "Beet", "Chard", "Kale"),
        ("Rent", "Food", "Cars", "Fuel", "Books", "Games", "Gifts", "Taxes"),
        ("Mars", "Venus", "Earth", "Pluto", "Titan", "Ceres", "Moon", "Sun"),
        ("Rain", "Snow", "Wind", "Fog", "Hail", "Cloud", "Storm", "Heat"),
        ("Oak", "Elm", "Ash", "Pine", "Birch", "Beech", "Cedar", "Yew"),
        ("Soup", "Rice", "Pasta", "Salad", "Pizza", "Bread", "Fries", "Curry"),
        ("Pen", "Ruler", "Book", "Chalk", "Map", "Globe", "Paper", "Glue"),
        ("Shirt", "Socks", "Hat", "Coat", "Shoes", "Scarf", "Belt", "Skirt"),
        ("Piano", "Drum", "Flute", "Harp", "Horn", "Cello", "Oboe", "Viola"),
        ("North", "South", "East", "West", "Mid", "Coast", "Hills", "Bay"),
        ("Eva", "Leo", "Mia", "Noah", "Zoe", "Adam", "Ella", "Finn"),
        ("Rose", "Tulip", "Lily", "Daisy", "Aster", "Poppy", "Iris", "Lotus"),
        ("Spain", "Italy", "India", "Peru", "Chile", "Kenya", "Japan", "Malta"),
    ),
)
"""Words that stand together in a chart."""

TITLES: Pool[str] = Pool.split(
    "chart title",
    (
        "Sales", "Votes", "Visitors", "Goals", "Prices", "Points", "Results", "Orders",
        "Hours", "Members", "Books sold", "Trips", "Tickets", "Costs", "Survey", "Profit",
        "Pupils", "Fans", "Budget", "Output", "Medals", "Wins", "Answers", "Scores",
    ),
)  # fmt: skip
"""Lines over a chart."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONSONANTS = "bdfgklmnprstvz"
_QUARTERS = ("Q1", "Q2", "Q3", "Q4")
_KINDS = ("letters", "months", "days", "years", "quarters", "topic", "names")
_WEIGHTS = (2, 2, 1, 1, 1, 5, 1)
_TIME_WEIGHTS = (1, 4, 3, 4, 1, 1, 0)
_NARROW_WEIGHTS = (3, 4, 3, 1, 0, 0, 0)  # for many labels side by side

_SCALES = (
    (1, 5, 1), (1, 6, 1), (1, 8, 2), (1, 10, 2), (5, 5, 1), (5, 6, 1), (5, 8, 2), (10, 5, 1),
    (10, 6, 1), (10, 8, 2), (10, 10, 2), (20, 5, 1), (2, 5, 1), (100, 5, 1),
)  # fmt: skip
"""Unit of the values, units of the axis, units from one tick to the next."""

MIN_STEP = 0.08
"""Least difference of two values of a chart, as a share of its axis."""


@dataclass(frozen=True)
class Scale:
    """An axis from 0."""

    unit: int
    """Values that are read off are multiples of this."""
    top: int
    """Its end."""
    tick: int
    """From one printed number to the next."""

    @property
    def ticks(self) -> tuple[int, ...]:
        """Printed numbers from 0 up."""
        return tuple(range(0, self.top + 1, self.tick))


@dataclass(frozen=True)
class Table:
    """Values with labels; all values differ."""

    labels: tuple[str, ...]
    """What the values are called."""
    values: tuple[int, ...]
    """One a label."""
    scale: Scale
    """What they are drawn on."""
    is_read: bool
    """Whether the values are multiples of the unit, so that the axis tells them exactly."""

    @property
    def largest(self) -> int:
        """Place of the largest value."""
        return max(range(len(self.values)), key=self.values.__getitem__)

    @property
    def smallest(self) -> int:
        """Place of the smallest value."""
        return min(range(len(self.values)), key=self.values.__getitem__)


def choose_labels(chance: Chance, num: int, *, is_time: bool = False) -> tuple[str, ...]:
    """Choose what the values of a chart are called.

    Args:
        chance: easy charts are labelled with letters.
        num: labels wanted, at most 7.
        is_time: whether most are months, days or years, in order.

    Returns:
        Labels that all differ.
    """
    rng = chance.rng
    if not chance.is_hard():
        start = rng.randrange(len(_LETTERS) - num)
        return tuple(_LETTERS[start : start + num])
    weights = _TIME_WEIGHTS if is_time else _WEIGHTS
    kind = rng.choices(_KINDS, _NARROW_WEIGHTS if is_time and num > 4 else weights)[0]
    if kind == "letters":
        return tuple(rng.sample(_LETTERS, num)) if rng.random() < 0.3 else _run(rng, _LETTERS, num)
    if kind == "months":
        return _run(rng, _MONTHS, num)
    if kind == "days":
        return _run(rng, _DAYS, num)
    if kind == "years":
        start, step = rng.randint(1960, 2024 - 2 * num), rng.choice((1, 1, 2))
        return tuple(str(start + step * place) for place in range(num))
    if kind == "topic":
        words = chance.pick(TOPICS)
        return tuple(rng.sample(words, num))
    if kind == "quarters" and num <= len(_QUARTERS):
        return _QUARTERS[:num]
    names: dict[str, None] = {}
    while len(names) < num:
        names[_invent(rng)] = None
    return tuple(names)


def _invent(rng: random.Random) -> str:
    """A name that nobody has: it can only be read, not known."""
    first, second, third = rng.choices(_CONSONANTS, k=3)
    last = third if rng.random() < 0.5 else ""
    return (first + rng.choice("aeiou") + second + rng.choice("aeiou") + last).capitalize()


def _run(rng: random.Random, items: tuple[str, ...] | str, num: int) -> tuple[str, ...]:
    start = rng.randrange(len(items) - num + 1)
    return tuple(items[start : start + num])


def choose_scale(chance: Chance, num: int) -> Scale:
    """Choose an axis with room for some values that all differ.

    Args:
        chance: an easy axis has a number at each unit.
        num: of values.
    """
    rng = chance.rng
    while True:
        unit, units, tick = rng.choice(_SCALES if chance.is_hard() else _SCALES[:2])
        if units >= num:
            return Scale(unit, unit * units, unit * tick)


def choose_values(rng: random.Random, scale: Scale, num: int, *, is_read: bool) -> tuple[int, ...]:
    """Choose values that all differ clearly.

    Args:
        rng: source of chance.
        scale: the axis.
        num: of values.
        is_read: multiples of the unit only; else any whole number.

    Returns:
        The values, in an order of chance.
    """
    if is_read:
        return tuple(rng.sample(range(scale.unit, scale.top + 1, scale.unit), num))
    while True:
        values = sorted(rng.sample(range(max(1, scale.top // 12), scale.top + 1), num))
        gaps = (high - low for low, high in pairwise(values))
        if min(gaps) >= MIN_STEP * scale.top:
            rng.shuffle(values)
            return tuple(values)


def chart_colours(paper: Paper) -> list[str]:
    """Names of the colours that charts use on a sheet; black and white are left to print."""
    return [name for name in colours_on(paper.ground) if name not in ("black", "white")]


def choose_title(chance: Chance) -> str:
    """Choose the line over a chart; empty where there is none."""
    if not chance.is_hard() or chance.rng.random() < 0.6:
        return ""
    return chance.pick(TITLES)


def write_title(paper: Paper, title: str) -> int:
    """Print the line over a chart.

    Args:
        paper: what it is printed on.
        title: may be empty.

    Returns:
        Pixels from the top of the picture to where the chart may begin.
    """
    gap = round(3 * paper.canvas.shrink[1])
    if not title:
        return gap
    middle, width, base = paper.canvas.width / 2, paper.width(title), gap + paper.cap + 1
    paper.write(title, middle, base, 0.5)
    paper.mark("part:title", (middle - width / 2, gap, middle + width / 2, base + 3))
    return base + 2 * gap
