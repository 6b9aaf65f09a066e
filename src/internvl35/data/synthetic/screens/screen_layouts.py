"""Where the elements of a drawn screen stand: dialogs, windows, telephones, pages, rows of icons.

What a row holds is left to :mod:`internvl35.data.synthetic.screens.screen_rows`, what is asked
about it to :mod:`internvl35.data.synthetic.screens.screens`. No counterpart in the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import ImageDraw

from internvl35.data.synthetic.canvas import TILE_SIZE, Canvas
from internvl35.data.synthetic.drawing import Chance
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.screens.screen_rows import Rows, start_screen
from internvl35.data.synthetic.screens.widgets import Rect, Screen

ONE_TILE_SHARE = 0.94
"""How many hard screens fill one tile; the others fill two or four."""

_ASPECTS = (0.76, 1.42)
_GRIDS = ((2, 1), (1, 2), (2, 2))


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


def compose_screen(chance: Chance) -> Screen:
    """Draw a screen with two to nine elements.

    Args:
        chance: an easy screen has few and large elements and no bars.
    """
    while True:
        screen = _Composer(chance).compose()
        if len(screen.widgets) >= 2 and _holds_all(screen):
            return screen


def _holds_all(screen: Screen) -> bool:
    width, height = screen.image.size
    boxes = [*(widget.box for widget in screen.widgets), *(mark.box for mark in screen.marks)]
    return all(
        left >= 0 and top >= 0 and right <= width and bottom <= height
        for left, top, right, bottom in boxes
    )


def _choose_canvas(chance: Chance) -> Canvas:
    rng = chance.rng
    if not chance.is_hard():
        return Canvas(TILE_SIZE, TILE_SIZE)
    if rng.random() > ONE_TILE_SHARE:
        columns, rows = rng.choice(_GRIDS)
        side, stretch = rng.randint(150, 200), rng.uniform(0.9, 1.1)
        return Canvas(round(columns * side * stretch), rows * side, columns, rows)
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
        limit = self.rng.randint(3, 10) if chance.is_hard() else self.rng.randint(2, 4)
        self.canvas = _choose_canvas(chance)
        self.screen = start_screen(chance, self.canvas)
        self.rows = Rows(chance, self.screen, limit)

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
        if style.strips and not self.rows.is_full:
            area = self._strip(area, rng.choice(style.strips))
        foot = style.foot if not self.rows.is_full and rng.random() < 0.7 else ""
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
        if can_close and self.rng.random() < 0.3 and "cross" in self.rows.icons:
            self.rows.icons.remove("cross")
            end = right - side - 3
            screen.add_icon("cross", (end, middle), is_on_bar=True)
        elif not can_close and self.rng.random() < 0.6:
            screen.add_icon(self.rows.icons.pop(), (left + 3, middle), is_on_bar=True)
            start += side
            if self.rng.random() < 0.5:
                end = right - side - 3
                screen.add_icon(self.rows.icons.pop(), (end, middle), is_on_bar=True)
        title = self.rows.word("title", end - start - screen.pad)
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
            self.rows.add_icons(
                (left + 2, top + 2, right - 2, base), rng.randint(2, 5), is_on_bar=True
            )
            return left, base, right, bottom
        if not kind:
            return area
        base = top + screen.height
        screen.add_bar((left, top, right, base))
        x = left + 2
        if kind == "tabs":
            texts = self.rows.words("tab", rng.randint(2, 4), room, 2 * screen.pad)
            open_tab = rng.choice(texts) if texts else ""
            for text in texts:
                width = screen.width_of(text) + 2 * screen.pad
                screen.add_tab(text, (x, top, x + width, base), is_on=text == open_tab)
                x += width
            return left, base, right, bottom
        for text in self.rows.words("menu", rng.randint(2, 4), room, screen.pad):
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
            self.rows.add_icons(rect, self.rng.randint(2, 4), is_on_bar=True)
            return left, top, right, start
        start = bottom - screen.height - 4
        self.rows.add_buttons((left + 4, start, right - 4, start + screen.height), (1, 2))
        return left, top, right, start - 2

    def _fill(self, area: Rect, weights: dict[str, float]) -> None:
        """Stack rows until there is no room or the screen has enough elements."""
        screen, rng = self.screen, self.rng
        left, top, right, bottom = area
        if "apps" in weights:
            self.rows.add_programs(area)
            return
        heights = {
            "icons": screen.icon_side + 2,
            "checkbox": max(screen.height, screen.tick_side + 2),
            "radio": max(screen.height, screen.tick_side + 2),
        }
        self.rows.limit = max(self.rows.limit, len(screen.widgets) + rng.randint(0, 3))
        num_left = self.rows.limit - len(screen.widgets)
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
            if self.rows.is_full:
                return
            shift = 0 if kind == "row" else cut
            if kind == "row":
                shift = cuts[kinds.index("row")]
            rect = (left + 4, y + shift, right - 4, y + shift + height)
            self.rows.add_row(kind, rect)
            y += height + (0 if kind == "row" else 4)
