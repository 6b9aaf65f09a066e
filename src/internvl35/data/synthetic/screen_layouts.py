"""Where the elements of a drawn screen stand: dialogs, windows, telephones, pages, rows of icons.

What elements look like is left to :mod:`internvl35.data.synthetic.widgets`, what is asked about
them to :mod:`internvl35.data.synthetic.screens`. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.fonts import cap_share, choose_font, text_width
from internvl35.data.synthetic.icons import ICON_NAMES
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.scene import TILE_SIZE, Canvas, choose_canvas
from internvl35.data.synthetic.screen_words import (
    APP_LABELS,
    LABELS,
    TAKEN_WORDS,
    choose_label,
)
from internvl35.data.synthetic.widgets import Rect, Screen, choose_theme

MIN_CAP_HEIGHT = 9.2
"""Height of a capital in pixels that remains when the picture is pressed into one tile."""
MIN_ADVANCE = 5.6
"""Mean width of a character in pixels that remains when the picture is pressed into one tile."""
MIN_ICON_SIDE = 19
"""Side of an icon with its margin in pixels that remains likewise."""
ONE_TILE_SHARE = 0.9
"""How many hard screens fill one tile; the others are those of other drawings."""

_ASPECTS = (0.76, 1.42)
_SAMPLE = "Settings Name"


@dataclass(frozen=True)
class _Style:
    """A kind of screen."""

    share: float
    """How often it is drawn."""
    inset: float
    """How often it leaves some of what is behind it free."""
    strips: tuple[str, ...]
    """What may stand below the title, of which at most one is chosen; may be empty."""
    foot: str
    """What may stand at the bottom."""
    rows: dict[str, float]
    """What fills the rest, with weights."""


_STYLES = {
    "dialog": _Style(
        0.25, 0.8, (), "buttons", {"field": 4, "checkbox": 3, "radio": 3, "note": 1, "slider": 1}
    ),
    "window": _Style(
        0.3, 0.4, ("menu", "tools", "tabs", "tabs"), "",
        {"field": 2, "checkbox": 2, "radio": 2, "button": 3, "icons": 2, "row": 2, "slider": 1},
    ),
    "phone": _Style(
        0.2, 0.0, ("tabs", ""), "icons",
        {"row": 4, "button": 2, "checkbox": 2, "slider": 1, "field": 1, "icons": 1},
    ),
    "page": _Style(
        0.15, 0.0, ("menu", ""), "", {"link": 3, "button": 2, "field": 2, "note": 1, "icons": 2}
    ),
    "home": _Style(0.1, 0.0, ("",), "", {"apps": 1}),
}  # fmt: skip

_Draw = Callable[[int], None]


def compose_screen(chance: Chance) -> Screen:
    """Draw a screen with two to nine elements.

    Args:
        chance: an easy screen has few and large elements and no bars.
    """
    while True:
        screen = _Composer(chance).compose()
        if len(screen.widgets) >= 2:
            return screen


def _choose_canvas(chance: Chance) -> Canvas:
    rng = chance.rng
    if not chance.is_hard():
        return Canvas(TILE_SIZE, TILE_SIZE)
    if rng.random() > ONE_TILE_SHARE:
        return choose_canvas(chance)
    aspect = math.exp(rng.uniform(*(math.log(end) for end in _ASPECTS)))
    width = rng.randint(180, 260)
    height = round(width / aspect)
    if height > 270:
        width, height = round(270 * aspect), 270
    return Canvas(width, height)


class _Composer:
    """The making of one screen."""

    def __init__(self, chance: Chance) -> None:
        self.chance, self.rng = chance, chance.rng
        rng = chance.rng
        self.canvas = canvas = _choose_canvas(chance)
        across, down = canvas.shrink
        font = choose_font(chance, _SAMPLE)
        scale = rng.uniform(1.0, 1.3) if chance.is_hard() else rng.uniform(1.25, 1.6)
        advance = text_width(_SAMPLE, font, 100) / 100 / len(_SAMPLE)
        size = math.ceil(
            scale * max(MIN_CAP_HEIGHT * down / cap_share(font), MIN_ADVANCE * across / advance)
        )
        cap = round(size * cap_share(font))
        self.screen = Screen(
            image=Image.new("RGB", (canvas.width, canvas.height)),
            theme=choose_theme(chance),
            font=font,
            size=size,
            cap=cap,
            height=round(cap * rng.uniform(1.9, 2.5)),
            icon_side=round(MIN_ICON_SIDE * max(across, down) * rng.uniform(1.0, 1.5)),
        )
        self.limit = rng.randint(3, 10) if chance.is_hard() else rng.randint(2, 4)
        self.case = rng.choices((str.title, str.upper, str.lower), (8, 1, 1))[0]
        if not chance.is_hard():
            self.case = str.title
        self.used: list[str] = []
        self.icons = rng.sample(ICON_NAMES, len(ICON_NAMES))
        self.has_radios = False

    # --- what is written ---

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
        return len(self.screen.widgets) >= self.limit

    # --- the whole ---

    def compose(self) -> Screen:
        screen, rng, style = self.screen, self.rng, self._choose_style()
        pen, theme = ImageDraw.Draw(screen.image), screen.theme
        area: Rect = (0, 0, self.canvas.width, self.canvas.height)
        pen.rectangle(area, fill=theme.ground)
        if style is None:
            self._fill(area, {"button": 2, "icons": 2, "checkbox": 1, "field": 1, "link": 1})
            return screen
        if rng.random() < style.inset:
            area = self._inset(area)
        if style.foot == "buttons" or rng.random() < 0.7:
            area = self._head(area, can_close=style.inset > 0)
        if style.strips and not self.is_full:
            area = self._strip(area, rng.choice(style.strips))
        foot = style.foot if not self.is_full and rng.random() < 0.7 else ""
        if foot and area[3] - area[1] > 3.5 * screen.height:
            area = self._foot(area, foot)
        self._fill(area, style.rows)
        return screen

    def _choose_style(self) -> _Style | None:
        if not self.chance.is_hard():
            return None
        styles = list(_STYLES.values())
        return self.rng.choices(styles, [style.share for style in styles])[0]

    def _inset(self, area: Rect) -> Rect:
        """Draw what is behind a window, and the window's frame."""
        rng, theme, pen = self.rng, self.screen.theme, ImageDraw.Draw(self.screen.image)
        _, _, width, height = area
        left, right = (round(width * rng.uniform(0.0, 0.07)) for _ in range(2))
        top, bottom = (round(height * rng.uniform(0.0, 0.16)) for _ in range(2))
        behind = tuple(rng.randrange(40, 216) for _ in range(3))
        pen.rectangle(area, fill=(behind[0], behind[1], behind[2]))
        rect = (left, top, width - right, height - bottom)
        frame = (left, top, width - right - 1, height - bottom - 1)
        pen.rectangle(frame, fill=theme.ground, outline=theme.soft)
        self.screen.marks.append(Mark("part:window", rect))
        return left + 1, top + 1, width - right - 1, height - bottom - 1

    def _head(self, area: Rect, *, can_close: bool) -> Rect:
        screen, (left, top, right, _) = self.screen, area
        side = screen.icon_side
        base = top + max(screen.height, side + 2)
        screen.add_bar((left, top, right, base))
        middle = (top + base - side) // 2
        start, end = left + screen.pad, right
        if can_close and self.rng.random() < 0.4 and "cross" in self.icons:
            self.icons.remove("cross")
            end = right - side - 3
            screen.add_icon("cross", (end, middle), is_on_bar=True)
        elif not can_close and self.rng.random() < 0.6:
            screen.add_icon(self.icons.pop(), (left + 3, middle), is_on_bar=True)
            start += side
            if self.rng.random() < 0.5:
                end = right - side - 3
                screen.add_icon(self.icons.pop(), (end, middle), is_on_bar=True)
        title = self.word("title", end - start - screen.pad)
        if title:
            is_centred = self.rng.random() < 0.3
            screen.add_title(title, (start, top, end, base), is_centred=is_centred)
        return area[0], base, area[2], area[3]

    def _strip(self, area: Rect, kind: str) -> Rect:
        screen, rng, (left, top, right, bottom) = self.screen, self.rng, area
        room = right - left - 4
        if kind == "tools":
            side = screen.icon_side
            base = top + side + 4
            screen.add_bar((left, top, right, base))
            self._icons_in((left + 2, top + 2, right - 2, base), rng.randint(2, 5), is_on_bar=True)
            return left, base, right, bottom
        if not kind:
            return area
        base = top + screen.height
        screen.add_bar((left, top, right, base))
        x = left + 2
        if kind == "tabs":
            texts = self.words("tab", rng.randint(2, 4), room, 2 * screen.pad)
            open_tab = rng.choice(texts) if texts else ""
            for text in texts:
                width = screen.width_of(text) + 2 * screen.pad
                screen.add_tab(text, (x, top, x + width, base), is_on=text == open_tab)
                x += width
            return left, base, right, bottom
        for text in self.words("menu", rng.randint(2, 4), room, screen.pad):
            width = screen.width_of(text) + screen.pad
            screen.add_menu(text, (x, top, x + width, base))
            x += width
        return left, base, right, bottom

    def _foot(self, area: Rect, kind: str) -> Rect:
        screen, (left, top, right, bottom) = self.screen, area
        if kind == "icons":
            start = bottom - screen.icon_side - 4
            screen.add_bar((left, start, right, bottom))
            rect = (left + 2, start + 2, right - 2, bottom)
            self._icons_in(rect, self.rng.randint(2, 4), is_on_bar=True)
            return left, top, right, start
        start = bottom - screen.height - 4
        self._buttons_in((left + 4, start, right - 4, start + screen.height), (1, 2))
        return left, top, right, start - 2

    # --- rows ---

    def _fill(self, area: Rect, weights: dict[str, float]) -> None:
        """Stack rows until there is no room or the screen has enough elements."""
        screen, rng = self.screen, self.rng
        left, top, right, bottom = area
        if "apps" in weights:
            self._apps_in(area)
            return
        heights = {
            "icons": screen.icon_side + 2,
            "checkbox": max(screen.height, screen.tick_side + 2),
            "radio": max(screen.height, screen.tick_side + 2),
        }
        self.limit = max(self.limit, len(screen.widgets) + rng.randint(0, 3))
        num_left = self.limit - len(screen.widgets)
        kinds: list[str] = []
        room = bottom - top - 4
        favoured = dict(weights)
        for _ in range(max(1, min(num_left, rng.randint(3, 8)))):
            kind = rng.choices(list(favoured), list(favoured.values()))[0]
            height = heights.get(kind, screen.height) + 4
            if height > room:
                break
            kinds.append(kind)
            room -= height
            favoured[kind] *= 2.5 if kind in ("checkbox", "row", "field") else 0.7
        if "row" in kinds:  # a list stays together
            place = kinds.index("row")
            rows = [kind for kind in kinds if kind == "row"]
            rest = [kind for kind in kinds if kind != "row"]
            kinds = rest[:place] + rows + rest[place:]
        cuts = sorted(rng.randint(0, max(0, room)) for _ in kinds)
        if rng.random() < 0.4:
            cuts = [min(cuts, default=0)] * len(kinds)
        y = top + 4
        for cut, kind in zip(cuts, kinds, strict=True):
            height = heights.get(kind, screen.height)
            if self.is_full:
                return
            shift = 0 if kind == "row" else cut
            if kind == "row":
                shift = cuts[kinds.index("row")]
            rect = (left + 4, y + shift, right - 4, y + shift + height)
            self._row_in(kind, rect)
            y += height + (0 if kind == "row" else 4)

    def _row_in(self, kind: str, rect: Rect) -> None:
        rng, screen, (left, top, right, bottom) = self.rng, self.screen, rect
        room = right - left
        if kind == "button":
            self._buttons_in(rect, (1, 3))
        elif kind == "icons":
            self._icons_in(rect, rng.randint(1, 4))
        elif kind == "checkbox":
            self._ticks_in("checkbox", rect, rng.choice((1, 1, 2)))
        elif kind == "radio":
            if not self.has_radios:
                self._ticks_in("radio", rect, rng.choice((2, 2, 3)))
            else:
                self._ticks_in("checkbox", rect, 1)
        elif kind == "link":
            extra = screen.pad + 6
            texts = self.words("link", rng.choice((1, 1, 2)), room, extra)
            used = sum(screen.width_of(text) + extra for text in texts)
            x = left + rng.randint(0, max(0, room - used))
            for text in texts:
                screen.add_link(text, (x, top, x + screen.width_of(text) + 4, bottom))
                x += screen.width_of(text) + extra
        elif kind == "row":
            text = self.word("row", room - 2 * screen.pad)
            if text:
                screen.add_row(text, rect)
        elif kind == "note":
            text = self.word("title", room)
            if text:
                screen.add_note(text, rect)
        elif kind == "field":
            self._field_in(rect)
        else:
            text = self.word("slider", room * 5 // 9)
            if text:
                start = left + screen.width_of(text) + screen.pad
                share = rng.random()
                screen.add_slider(text, (start, top, right, bottom), left, share)

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

    def _buttons_in(self, rect: Rect, nums: tuple[int, int]) -> None:
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
            width = screen.width_of(text) + extra - screen.pad
            is_on = text == chosen if kind == "radio" else rng.random() < 0.5
            screen.add_tick(kind, text, (x, top, x + width, bottom), is_on=is_on)
            x += width + screen.pad

    def _icons_in(self, rect: Rect, num: int, *, is_on_bar: bool = False) -> None:
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

    def _apps_in(self, area: Rect) -> None:
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
