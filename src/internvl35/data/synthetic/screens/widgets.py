"""Elements of drawn screens: buttons, fields, tabs, icons.

Where they stand is left to :mod:`internvl35.data.synthetic.screens.screen_layouts`, their colours
to :mod:`internvl35.data.synthetic.screens.screen_theme`. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Box
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import print_line, text_width
from internvl35.data.synthetic.screens.icons import draw_icon
from internvl35.data.synthetic.screens.screen_theme import Theme, legible_on, mix

Rect = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; right and bottom are exclusive."""


@dataclass(frozen=True)
class Widget:
    """An element of a screen that can be clicked."""

    kind: str
    """``button``, ``field``, ``checkbox``, ``radio``, ``slider``, ``tab``, ``link``, ``menu``,
    ``row`` or ``icon``."""
    label: str
    """What is printed on or beside it; empty for most icons."""
    box: Box
    """Where a click reaches it, pixels."""
    is_on: bool = False
    """Whether it is ticked or selected."""
    icon: str = ""
    """What the icon shows."""
    text: str = ""
    """What is typed into the field."""


@dataclass
class Screen:
    """A screen that is being drawn: what is on it so far, and with which looks."""

    image: Image.Image
    """RGB picture."""
    theme: Theme
    """Its looks."""
    font: str
    """What it is printed with."""
    size: int
    """Pixels of the em."""
    cap: int
    """Height of a capital in pixels."""
    height: int
    """Height of a line with its surroundings, pixels."""
    icon_side: int
    """Side of an icon in pixels, its plate included."""
    widgets: list[Widget] = field(default_factory=list[Widget])
    """What can be clicked, in the order of drawing."""
    marks: list[Mark] = field(default_factory=list[Mark])
    """What stands where."""
    title: str = ""
    """What the title bar says."""

    def width_of(self, text: str) -> int:
        """Pixels that a text is long."""
        return text_width(text, self.font, self.size)

    @property
    def pad(self) -> int:
        """Pixels between a frame and what stands in it."""
        return max(4, round(0.7 * self.cap))

    def add_bar(self, rect: Rect) -> None:
        """Draw the ground of titles or tools."""
        ImageDraw.Draw(self.image).rectangle(_inside(rect), fill=self.theme.bar)
        self.marks.append(Mark("part:bar", rect))

    def add_title(self, text: str, rect: Rect, *, is_centred: bool = False) -> None:
        """Print what the screen is called."""
        self.title = text
        left, _, right, _ = rect
        start = (left + right - self.width_of(text)) // 2 if is_centred else left
        self._print(text, start, rect, legible_on(self.theme.bar))
        self.marks.append(
            Mark("part:title", (start, rect[1], start + self.width_of(text), rect[3]))
        )

    def add_note(self, text: str, rect: Rect) -> None:
        """Print a text that cannot be clicked."""
        self._print(text, rect[0], rect, self.theme.soft)

    def add_button(self, label: str, rect: Rect) -> None:
        """A framed or filled label."""
        theme = self.theme
        fill = theme.accent if theme.is_filled else theme.ground
        self._frame(rect, fill, theme.accent, thick=max(2, round(self.cap / 5)))
        ink = legible_on(fill) if theme.is_filled else theme.ink
        self._print(label, (rect[0] + rect[2] - self.width_of(label)) // 2, rect, ink)
        self._add(Widget("button", label, rect))

    def add_field(self, label: str, rect: Rect, start: int, text: str = "") -> None:
        """A frame to type into.

        Args:
            label: stands before the frame, or in it as a hint.
            rect: the frame.
            start: where the label begins; inside of ``rect`` it is a hint.
            text: what is typed in; empty where the label is a hint.
        """
        theme = self.theme
        self._frame(rect, theme.paper, theme.soft, thick=max(1, round(self.cap / 9)))
        is_hint = start >= rect[0]
        self._print(label, start, rect, theme.soft if is_hint else theme.ink)
        if text:
            self._print(text, rect[0] + self.pad, rect, legible_on(theme.paper))
        self._add(Widget("field", label, rect, text=text))

    def add_tick(self, kind: str, label: str, rect: Rect, *, is_on: bool) -> None:
        """A checkbox or a radio button with its label."""
        theme, pen = self.theme, ImageDraw.Draw(self.image)
        side = max(self.tick_side, 8)
        top = (rect[1] + rect[3] - side) // 2
        box = (rect[0], top, rect[0] + side, top + side)
        dot = max(2, side // 4)
        if kind == "radio":
            pen.ellipse(_inside(box), fill=theme.paper, outline=theme.ink, width=max(1, side // 10))
            if is_on:
                pen.ellipse(_inside(_shrunk(box, dot)), fill=theme.accent)
        else:
            is_filled = is_on and theme.is_filled
            fill = theme.accent if is_filled else theme.paper
            pen.rectangle(_inside(box), fill=fill, outline=theme.ink, width=max(1, side // 10))
            if is_on:
                ink = legible_on(fill)
                x, y = box[0], box[1]
                points = [(0.22, 0.52), (0.42, 0.74), (0.8, 0.26)]
                width = max(2, round(side / 6))
                pen.line([(x + side * a, y + side * b) for a, b in points], ink, width)
        if is_on:
            self.marks.append(Mark("part:symbol", box))
        self.marks.append(Mark(f"part:{kind}", box))
        self._print(label, box[2] + self.pad, rect, theme.ink)
        self._add(Widget(kind, label, rect, is_on), is_marked=False)

    @property
    def tick_side(self) -> int:
        """Side of the box of a checkbox in pixels."""
        return max(round(1.35 * self.cap), round(0.6 * self.icon_side))

    def add_slider(self, label: str, rect: Rect, start: int, share: float) -> None:
        """A knob on a line, after its label."""
        theme, pen = self.theme, ImageDraw.Draw(self.image)
        middle, radius = (rect[1] + rect[3]) // 2, round(0.6 * self.cap)
        x = rect[0] + radius + round(share * (rect[2] - rect[0] - 2 * radius))
        thick = max(2, radius // 2)
        pen.line((rect[0], middle, rect[2] - 1, middle), theme.soft, thick)
        pen.line((rect[0], middle, x, middle), theme.accent, thick)
        pen.ellipse((x - radius, middle - radius, x + radius, middle + radius), fill=theme.accent)
        self._print(label, start, rect, theme.ink)
        self._add(Widget("slider", label, rect))

    def add_tab(self, label: str, rect: Rect, *, is_on: bool) -> None:
        """One of several cards, of which one is open."""
        theme, pen = self.theme, ImageDraw.Draw(self.image)
        if is_on:
            pen.rectangle(_inside(rect), fill=theme.ground, outline=theme.soft)
            edge = max(3, round(0.3 * self.cap))
            pen.rectangle((rect[0], rect[3] - edge, rect[2] - 1, rect[3] - 1), fill=theme.accent)
            self.marks.append(Mark("part:symbol", rect))
        ink = theme.ink if is_on else legible_on(theme.bar)
        self._print(label, (rect[0] + rect[2] - self.width_of(label)) // 2, rect, ink)
        self._add(Widget("tab", label, rect, is_on))

    def add_link(self, label: str, rect: Rect) -> None:
        """An underlined label."""
        left, right = rect[0] + 2, rect[0] + 2 + self.width_of(label)
        self._print(label, left, rect, self.theme.link)
        base = (rect[1] + rect[3] + self.cap) // 2 + max(2, self.cap // 5)
        thick = max(1, self.cap // 9)
        ImageDraw.Draw(self.image).line((left, base, right, base), self.theme.link, thick)
        self._add(Widget("link", label, rect))

    def add_menu(self, label: str, rect: Rect) -> None:
        """A word in a bar of menus."""
        self._print(label, rect[0] + self.pad // 2, rect, legible_on(self.theme.bar))
        self._add(Widget("menu", label, rect))

    def add_row(self, label: str, rect: Rect) -> None:
        """A line of a list, between two rules."""
        pen, mild = ImageDraw.Draw(self.image), mix(self.theme.soft, self.theme.ground, 0.5)
        pen.line((rect[0], rect[1], rect[2] - 1, rect[1]), mild)
        pen.line((rect[0], rect[3], rect[2] - 1, rect[3]), mild)
        self._print(label, rect[0] + self.pad, rect, self.theme.ink)
        self._add(Widget("row", label, rect))

    def add_icon(
        self, icon: str, corner: tuple[int, int], *, is_on_bar: bool = False, label: str = ""
    ) -> None:
        """An icon, for a program with its name below.

        Args:
            icon: what it shows.
            corner: left and top of its plate; the label is centred below.
            is_on_bar: whether it stands on a bar.
            label: name of a program, or nothing.
        """
        theme, (left, top), side = self.theme, corner, self.icon_side
        rect = (left, top, left + side, top + side)
        ink = legible_on(theme.bar) if is_on_bar else theme.ink
        margin = round(0.08 * side)
        if theme.plate and not is_on_bar:
            pen = ImageDraw.Draw(self.image)
            if theme.plate == "disc":
                pen.ellipse(_inside(rect), fill=theme.accent)
            else:
                pen.rounded_rectangle(_inside(rect), side * theme.round_share / 2, theme.accent)
            ink, margin = legible_on(theme.accent), round(0.19 * side)
        self.marks += draw_icon(
            self.image,
            icon,
            theme.icon_style,
            side - 2 * margin,
            (left + margin, top + margin),
            ink,
        )
        if label:
            width, below = self.width_of(label), top + side
            start = (rect[0] + rect[2] - width) // 2
            line = (start, below, start + width, below + self.height)
            self._print(label, start, line, theme.ink)
            rect = (min(left, line[0]), top, max(rect[2], line[2]), line[3])
        self._add(Widget("icon", label, rect, icon=icon), is_marked=False)

    def _add(self, widget: Widget, *, is_marked: bool = True) -> None:
        self.widgets.append(widget)
        if is_marked:
            part = "menu" if widget.kind == "row" else widget.kind
            self.marks.append(Mark(f"part:{part}", widget.box))

    def _frame(self, rect: Rect, fill: Colour, line: Colour, *, thick: int) -> None:
        radius = self.theme.round_share * (rect[3] - rect[1])
        pen = ImageDraw.Draw(self.image)
        pen.rounded_rectangle(_inside(rect), radius, fill, line, thick)

    def _print(self, text: str, left: int, rect: Rect, ink: Colour) -> None:
        base = (rect[1] + rect[3] + self.cap) // 2
        self.marks += print_line(self.image, text, self.font, self.size, (left, base), ink)


def _inside(rect: Rect) -> Rect:
    """What Pillow calls the same rectangle: its last pixels belong to it."""
    left, top, right, bottom = rect
    return left, top, right - 1, bottom - 1


def _shrunk(rect: Rect, margin: int) -> Rect:
    left, top, right, bottom = rect
    return left + margin, top + margin, right - margin, bottom - margin
