"""Short lines of everyday print: a few words, dates, times, prices, addresses, signs.

Printing them is left to the families. No counterpart in the paper.
"""

from __future__ import annotations

import random

from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.printed.words import choose_code, choose_english

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
"""Names of the months."""

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
"""Names of the days of the week."""

LEAST_LIMIT = 12
"""Fewest characters that a phrase can be kept within."""

_SIGNS = ("Room", "Gate", "Bus", "Row", "Lot", "Floor", "Seat", "Track", "No.", "Unit", "Level")
_ENDINGS = ("com", "org", "net")
_PER = ("each", "only", "per kg", "a day", "a week", "off")
_UNITS = ("kg", "km", "cm", "ml", "GB", "pcs", "mph", "%")


def choose_phrase(chance: Chance, limit: int, *, has_dollar: bool = True) -> str:
    """Choose a line of print.

    Args:
        chance: an easy phrase has words only.
        limit: most characters, at least ``LEAST_LIMIT``.
        has_dollar: whether it may have a dollar sign.

    Returns:
        Words and signs with single blanks between them.
    """
    rng = chance.rng
    style = rng.random() if chance.is_hard() else 0.0
    if style < 0.55:
        return _write_words(chance, limit)
    if style < 0.63:
        return _within(rng, limit, _DATES)
    if style < 0.70:
        return _within(rng, limit, _TIMES)
    if style < 0.78:
        return _write_address(chance, limit)
    if style < 0.89:
        return _write_amount(chance, limit, "$" if has_dollar else "")
    return _write_sign(chance, limit)


def _lengths(rng: random.Random, limit: int) -> list[int]:
    """Lengths of words that fill a line with blanks between them."""
    lengths: list[int] = []
    room = limit
    while room >= 2 and len(lengths) < 5:
        lengths.append(rng.randint(2, min(8, room)))
        room -= lengths[-1] + 1
    return lengths


def _write_words(chance: Chance, limit: int) -> str:
    rng = chance.rng
    words = [choose_english(chance, length) for length in _lengths(rng, limit - 2)]
    style = rng.random()
    if style < 0.25:
        words = [word.upper() for word in words]
    elif style < 0.45:
        words = [_capital(word) for word in words]
    elif style < 0.8:
        words[0] = _capital(words[0])
    if not chance.is_hard():
        return " ".join(words)
    place = rng.randrange(len(words))
    mark = rng.random()  # at most two more characters, for which there is room
    if mark < 0.1:
        words[place] = f"({words[place]})"
    elif mark < 0.4 and place + 1 < len(words):
        words[place] += ":" if mark < 0.15 else ","
    elif mark < 0.5 and place + 1 < len(words):
        words[place : place + 2] = ["-".join(words[place : place + 2])]
    line = " ".join(words)
    if len(line) < limit and not line.endswith(")") and rng.random() < 0.4:
        line += rng.choice(".!?")
    return line


def _capital(word: str) -> str:
    return word if word[0] == "i" else word.capitalize()  # a capital I passes for a small l


_DATES = (
    "{day} {month} {year}", "{month} {day}, {year}", "{year}-{m:02}-{day:02}", "{day} {short}",
    "{day:02}/{m:02}/{year}", "{m}/{day}/{y:02}", "{weekday}, {day} {short}",
    "{week} {day} {month}", "{day}.{m}.{year}", "{short} {day} {year}",
)  # fmt: skip
_TIMES = (
    "{hour:02}:{minute:02}", "{twelve}:{minute:02} am", "{twelve}:{minute:02} PM",
    "Open {twelve}:00-{hour:02}:{minute:02}", "{weekday} {hour}:{minute:02}",
    "{week} {twelve} am - {later} pm", "at {hour:02}:{minute:02}", "{week} {day} {short} {hour}:00",
)  # fmt: skip


def _within(rng: random.Random, limit: int, forms: tuple[str, ...]) -> str:
    while True:
        month, weekday = rng.randrange(12), rng.choice(DAYS)
        text = rng.choice(forms).format(
            day=rng.randint(1, 28),
            m=month + 1,
            month=MONTHS[month],
            short=MONTHS[month][:3],
            year=rng.randint(1950, 2039),
            y=rng.randint(20, 99),
            weekday=weekday,
            week=weekday[:3],
            hour=rng.randint(6, 23),
            twelve=rng.randint(2, 9),
            later=rng.randint(2, 9),
            minute=rng.randrange(0, 60, 5) if rng.random() < 0.5 else rng.randrange(60),
        )
        if len(text) <= limit:
            return text


def _write_address(chance: Chance, limit: int) -> str:
    rng = chance.rng
    ending = rng.choice(_ENDINGS)
    first = rng.randint(2, min(8, limit - 7))
    room = limit - first - 6  # "@" or "." and ".com"
    second = rng.randint(2, min(8, max(2, room)))
    one, two = choose_english(chance, first), choose_english(chance, second)
    style = rng.random()
    if style < 0.5 and room >= 2:
        return f"{one}@{two}.{ending}"
    if style < 0.75 and limit >= first + 8:
        return f"www.{one}.{ending}"
    return f"{one}.{ending}/{two}" if room >= 2 else f"{one}.{ending}"


def _write_amount(chance: Chance, limit: int, sign: str) -> str:
    rng = chance.rng
    style = rng.random()
    cents = f"{rng.randint(0, 99)}.{rng.randint(0, 99):02}"
    if style < 0.45:
        room = limit - len(cents) - 3
        word = _capital(choose_english(chance, rng.randint(2, min(8, room))))
        return f"{word}{rng.choice((' ', ': '))}{sign}{cents}"
    if style < 0.65:
        number = rng.choice((rng.randint(2, 99), rng.randint(100, 9999)))
        return f"{number} {rng.choice(_UNITS)}"
    if style < 0.8:
        return f"{sign}{cents} {rng.choice(('each', 'only', 'off') if limit < 13 else _PER)}"
    first, second = rng.randint(2, 60), rng.randint(2, 39)
    return f"{first} + {second} = {first + second}"


def _write_sign(chance: Chance, limit: int) -> str:
    rng = chance.rng
    style = rng.random()
    if style < 0.45:
        word = rng.choice(_SIGNS)
        text = f"{word} {rng.randint(2, 999)}"
        return text.upper() if rng.random() < 0.3 else text
    if style < 0.6:
        return f"{rng.randint(1, 9) * 5 + 5}% OFF" if rng.random() < 0.3 else choose_code(chance, 8)
    if style < 0.75:
        return "-".join(str(rng.randint(200, 9999)) for _ in range(3 if limit > 14 else 2))
    room = limit - 4
    word = choose_english(chance, rng.randint(2, min(8, room)))
    return f"{_capital(word)} {rng.randint(2, 999)}"
