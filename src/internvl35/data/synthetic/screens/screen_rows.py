"""Rows of elements on a drawn screen: buttons beside each other, a field after its label, icons.

Which rows a screen has is left to :mod:`internvl35.data.synthetic.screens.screen_layouts`. No
counterpart in the paper.
"""

from __future__ import annotations

import math

from PIL import Image

from internvl35.data.synthetic.canvas import Canvas
from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.printed.fonts import cap_share, choose_font, text_width
from internvl35.data.synthetic.screens.icons import ICON_NAMES
from internvl35.data.synthetic.screens.screen_theme import choose_theme
from internvl35.data.synthetic.screens.screen_words import (
    APP_LABELS,
    LABELS,
    TAKEN_WORDS,
    choose_label,
)
from internvl35.data.synthetic.screens.widgets import Rect, Screen

MIN_CAP_HEIGHT = 9.2
"""Height of a capital in pixels that remains when the picture is pressed into one tile."""
MIN_ADVANCE = 5.6
"""Mean width of a character in pixels that remains when the picture is pressed into one tile."""
MIN_ICON_SIDE = 19
"""Side of an icon with its margin in pixels that remains likewise."""

_SAMPLE = "Settings Name"


def start_screen(chance: Chance, canvas: Canvas) -> Screen:
    """Begin a screen: choose its looks and the sizes of print and icons.

    Args:
        chance: an easy screen is plain and has large elements.
        canvas: size of the picture.
    """
    rng = chance.rng
    across, down = canvas.shrink
    font = choose_font(chance, _SAMPLE)
    is_hard = chance.is_hard()
    scale = rng.uniform(1.0, 1.3) if is_hard else rng.uniform(1.25, 1.6)
    advance = text_width(_SAMPLE, font, 100) / 100 / len(_SAMPLE)
    size = math.ceil(
        scale * max(MIN_CAP_HEIGHT * down / cap_share(font), MIN_ADVANCE * across / advance)
    )
    cap = round(size * cap_share(font))
    icon_scale = rng.uniform(1.0, 1.5) if is_hard else rng.uniform(1.4, 2.0)
    return Screen(
        image=Image.new("RGB", (canvas.width, canvas.height)),
        theme=choose_theme(chance),
        font=font,
        size=size,
        cap=cap,
        height=round(cap * rng.uniform(1.9, 2.5)),
        icon_side=round(MIN_ICON_SIDE * max(across, down) * icon_scale),
    )


class Rows:
    """What can be added to a screen, row by row.

    Args:
        chance: of words and places.
        screen: what is drawn into.
        limit: elements that the screen may have.
    """

    def __init__(self, chance: Chance, screen: Screen, limit: int) -> None:
        """Begin with an empty screen."""
        self.chance, self.rng, self.screen, self.limit = chance, chance.rng, screen, limit
        self.case = str.title
        if chance.is_hard():
            self.case = self.rng.choices((str.title, str.upper, str.lower), (8, 1, 1))[0]
        self.used: list[str] = []
        self.icons = self.rng.sample(ICON_NAMES, len(ICON_NAMES))
        self.has_radios = False

    def word(self, kind: str, room: int) -> str:
        """A label that fits and is not on the screen yet; empty if there is none."""
        for _ in range(10):
            is_any = self.rng.random() < 0.5
            text = choose_label(self.chance) if is_any else self.rng.choice(LABELS[kind])
            known = text.lower()
            if not TAKEN_WORDS.isdisjoint(known.split()):
                continue
            if any(known in other or other in known for other in self.used):
                continue
            text = text if text.isupper() else self.case(text)
            if self.screen.width_of(text) <= room:
                self.used.append(known)
                return text
        return ""

    def words(self, kind: str, num: int, room: int, extra: int) -> list[str]:
        """Labels that fit beside each other with so many pixels around each."""
        found: list[str] = []
        for _ in range(num):
            text = self.word(kind, room - extra)
            if not text:
                break
            found.append(text)
            room -= self.screen.width_of(text) + extra
        return found

    @property
    def is_full(self) -> bool:
        """Whether the screen has as many elements as it may have."""
        return len(self.screen.widgets) >= self.limit

    def add_row(self, kind: str, rect: Rect) -> None:
        """Add a row of one kind, if words are found that fit."""
        rng, screen = self.rng, self.screen
        room = rect[2] - rect[0]
        if kind == "button":
            self.add_buttons(rect, (1, 3))
        elif kind == "icons":
            self.add_icons(rect, rng.randint(1, 4))
        elif kind == "checkbox" or (kind == "radio" and self.has_radios):
            self._ticks_in("checkbox", rect, rng.choice((1, 1, 2)))
        elif kind == "radio":
            self._ticks_in("radio", rect, rng.choice((2, 2, 3)))
        elif kind == "link":
            self._links_in(rect)
        elif kind == "field":
            self._field_in(rect)
        elif kind == "slider":
            self._slider_in(rect)
        elif kind == "row":
            text = self.word("row", room - 2 * screen.pad)
            if text:
                screen.add_row(text, rect)
        else:
            screen.add_note(self.word("title", room), rect)

    def _links_in(self, rect: Rect) -> None:
        rng, screen, (left, top, right, bottom) = self.rng, self.screen, rect
        extra = screen.pad + 6
        texts = self.words("link", rng.choice((1, 1, 2)), right - left, extra)
        used = sum(screen.width_of(text) + extra for text in texts)
        x = left + rng.randint(0, max(0, right - left - used))
        for text in texts:
            screen.add_link(text, (x, top, x + screen.width_of(text) + 4, bottom))
            x += screen.width_of(text) + extra

    def _slider_in(self, rect: Rect) -> None:
        left, top, right, bottom = rect
        text = self.word("slider", (right - left) * 5 // 9)
        if text:
            start = left + self.screen.width_of(text) + self.screen.pad
            self.screen.add_slider(text, (start, top, right, bottom), left, self.rng.random())

    def _field_in(self, rect: Rect) -> None:
        rng, screen, (left, top, right, bottom) = self.rng, self.screen, rect
        room = right - left
        if rng.random() < 0.3:
            text = self.word("field", room - 2 * screen.pad)
            if text:
                width = screen.width_of(text) + 2 * screen.pad
                width = rng.randint(min(room, round(1.2 * width)), room)
                x = left + rng.randint(0, room - width)
                screen.add_field(text, (x, top, x + width, bottom), x + screen.pad)
            return
        text = self.word("field", room // 2)
        if not text:
            return
        start = left + screen.width_of(text) + screen.pad
        if rng.random() < 0.5:
            start = max(start, left + room // 2)
        value = str(rng.randint(10, 9999)) if rng.random() < 0.4 else choose_label(self.chance)
        if value.lower() in self.used or screen.width_of(value) > right - start - 2 * screen.pad:
            value = ""
        if value:
            self.used.append(value.lower())
        screen.add_field(text, (start, top, right, bottom), left, value)

    def add_buttons(self, rect: Rect, nums: tuple[int, int]) -> None:
        """Add buttons beside each other, at least and at most so many."""
        rng, screen, (left, top, right, bottom) = self.rng, self.screen, rect
        gap, extra = 6, 2 * screen.pad
        num = min(rng.randint(*nums), self.limit - len(screen.widgets))
        texts = self.words("button", num, right - left, extra + gap)
        if not texts:
            return
        widths = [screen.width_of(text) + extra for text in texts]
        free = right - left - sum(widths) - gap * (len(texts) - 1)
        if rng.random() < 0.25:
            widths = [width + free // len(texts) for width in widths]
            free = 0
        x = left + rng.choice((0, free // 2, free, rng.randint(0, max(0, free))))
        for text, width in zip(texts, widths, strict=True):
            screen.add_button(text, (x, top, x + width, bottom))
            x += width + gap

    def _ticks_in(self, kind: str, rect: Rect, num: int) -> None:
        rng, screen, (left, top, right, bottom) = self.rng, self.screen, rect
        extra = screen.tick_side + 2 * screen.pad
        texts = self.words(kind, num, right - left, extra)
        if not texts or (kind == "radio" and len(texts) < 2):
            return
        self.has_radios = self.has_radios or kind == "radio"
        chosen = rng.choice(texts)
        free = right - left - sum(screen.width_of(text) + extra for text in texts)
        x = left + (rng.randint(0, max(0, free)) if rng.random() < 0.4 else 0)
        for text in texts:
            width = screen.width_of(text) + extra - screen.pad // 2
            is_on = text == chosen if kind == "radio" else rng.random() < 0.5
            screen.add_tick(kind, text, (x, top, x + width, bottom), is_on=is_on)
            x += width + screen.pad // 2

    def add_icons(self, rect: Rect, num: int, *, is_on_bar: bool = False) -> None:
        """Add icons beside each other."""
        rng, screen, (left, top, right, _) = self.rng, self.screen, rect
        side, gap = screen.icon_side, 4
        num = min(num, self.limit - len(screen.widgets), (right - left) // (side + gap))
        if num < 1:
            return
        room = right - left - num * side
        gap = rng.choice((gap, gap, max(gap, room // num), rng.randint(gap, max(gap, room // num))))
        free = room - gap * (num - 1)
        x = left + rng.choice((0, max(0, free), rng.randint(0, max(0, free))))
        for _ in range(num):
            screen.add_icon(self.icons.pop(), (x, top), is_on_bar=is_on_bar)
            x += side + gap

    def add_programs(self, area: Rect) -> None:
        """A grid of icons, with the names of their programs if there is room."""
        rng, screen, (left, top, right, bottom) = self.rng, self.screen, area
        has_names = rng.random() < 0.6
        side = screen.icon_side
        width = max(side, 6 * screen.size * 6 // 10) + 6 if has_names else side + 8
        height = side + (screen.height if has_names else 0) + 6
        columns, rows = (right - left) // width, (bottom - top) // height
        if columns < 1 or rows < 1:
            return
        columns, rows = rng.randint(1, min(4, columns)), rng.randint(1, min(4, rows))
        step_x, step_y = (right - left) // columns, (bottom - top) // rows
        cells = [(column, row) for row in range(rows) for column in range(columns)]
        for column, row in rng.sample(cells, min(len(cells), self.limit)):
            icons = [icon for icon in self.icons if icon in APP_LABELS] if has_names else self.icons
            if not icons:
                return
            icon = rng.choice(icons)
            self.icons.remove(icon)
            label = self.case(APP_LABELS[icon]) if has_names else ""
            if label.lower() in self.used or screen.width_of(label) > step_x - 4:
                label = ""
            x = left + column * step_x + (step_x - side) // 2
            y = top + row * step_y + (step_y - height) // 2 + 3
            screen.add_icon(icon, (x, y), label=label)
            if label:
                self.used.append(label.lower())
