"""What a test reads off a picture by the marks of its characters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from internvl35.data.synthetic.drawing import Pool
from internvl35.data.synthetic.labels import Mark


@dataclass(frozen=True)
class Print:
    """A run of characters."""

    text: str
    box: tuple[float, float, float, float]

    @property
    def middle(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


def read_print(marks: tuple[Mark, ...], blank: float = 0.5) -> list[Print]:
    """Join characters that follow each other; a gap is wider than a share of their height."""
    found: list[Print] = []
    is_open, start = False, 0.0
    for mark in marks:
        if not mark.label.startswith("glyph:"):
            is_open = False
            continue
        left, top, right, bottom = mark.box
        if is_open:
            last = found[-1]
            x0, y0, x1, y1 = last.box
            follows = start < left and left - x1 <= blank * (y1 - y0)
            if follows and top < y1 and bottom > y0:  # slanted letters may reach into each other
                box = (x0, min(y0, top), max(x1, right), max(y1, bottom))
                found[-1] = Print(last.text + mark.label[6:], box)
                is_open, start = mark.label != "glyph:%", left
                continue
        found.append(Print(mark.label[6:], mark.box))
        is_open, start = True, left
    return found


def fit_axis(ticks: list[tuple[float, float]]) -> tuple[float, float]:
    """Slope and start of values over pixels, by the outermost two of some ``(pixel, value)``."""
    (low, start), (high, end) = min(ticks), max(ticks)
    slope = (end - start) / (high - low)
    return slope, start - slope * low


def read_question(asked: Pool[str], question: str, inside: str = r"\w+") -> dict[str, str]:
    """What stands for the names of a wording in a question."""
    for text in (*asked.seen, *asked.kept):
        pattern = re.sub(r"\\\{(\w+)\\\}", lambda name: f"(?P<{name[1]}>{inside})", re.escape(text))
        found = re.fullmatch(pattern, question)
        if found:
            return found.groupdict()
    raise AssertionError(f"not one of the wordings: {question}")
