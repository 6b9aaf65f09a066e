"""A plain picture to draw and print on: ground, ink, one font at one size, and what stands where.

What is drawn is left to the families. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import Canvas
from internvl35.data.synthetic.colours import Colour, choose_background
from internvl35.data.synthetic.drawing import Box, Chance
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import (
    choose_font,
    load_glyph,
    print_line,
    size_for_caps,
    text_width,
)
from internvl35.data.synthetic.printed.typesetting import ink_box

MIN_CAP_HEIGHT = 9.0
"""Height of a capital in pixels that remains when the picture is shrunk to one tile."""

_CAP_RANGE = (9.6, 11.6)
_PLAIN_CAP = 10.5


class Paper:
    """A picture that is being drawn.

    Args:
        chance: an easy picture is black on white in one font.
        canvas: size of the picture.
        caps: least and greatest height of a capital in pixels of a tile; None for the usual ones.
    """

    def __init__(
        self, chance: Chance, canvas: Canvas, caps: tuple[float, float] | None = None
    ) -> None:
        """Take an empty sheet."""
        rng = chance.rng
        self.canvas = canvas
        self.ground = choose_background(chance)
        self.is_dark = sum(self.ground) < 384
        shade = rng.randint(0, 60) if chance.is_hard() else 0
        self.ink: Colour = (255 - shade,) * 3 if self.is_dark else (shade,) * 3
        faint = 70 if self.is_dark else 205
        self.faint: Colour = (faint,) * 3
        self.font = choose_font(chance, "")
        wanted = rng.uniform(*(caps or _CAP_RANGE)) if chance.is_hard() else _PLAIN_CAP
        size = size_for_caps(self.font, wanted * max(canvas.shrink))
        while -load_glyph(self.font, size, "H").top < MIN_CAP_HEIGHT * canvas.shrink[1]:
            size += 1
        self.size = size
        self.cap = -load_glyph(self.font, size, "H").top
        self.image = Image.new("RGB", (canvas.width, canvas.height), self.ground)
        self.pen = ImageDraw.Draw(self.image)
        self.marks: list[Mark] = []
        self.fills: dict[str, Colour] = {}

    def width(self, text: str) -> int:
        """Pixels that a line takes."""
        return text_width(text, self.font, self.size)

    def widest(self, texts: Sequence[str]) -> int:
        """Pixels that the longest of some lines takes, 0 without any."""
        return max((self.width(text) for text in texts), default=0)

    def drop(self, texts: Sequence[str]) -> int:
        """Pixels that the deepest of some lines reaches below its base line, 0 without any."""
        return max((ink_box(text, self.font, self.size)[3] for text in texts), default=0)

    def write(
        self, text: str, x: float, base: float, align: float = 0, ink: Colour | None = None
    ) -> None:
        """Print a line and mark its characters.

        Args:
            text: one line.
            x: where it starts, or ends, or has its middle.
            base: its base line.
            align: share of its width that lies left of ``x``.
            ink: colour; None for that of the picture.
        """
        start = (round(x - align * self.width(text)), round(base))
        self.marks += print_line(
            self.image, text, self.font, self.size, start, self.ink if ink is None else ink
        )

    def write_middle(self, text: str, x: float, y: float, ink: Colour | None = None) -> None:
        """Print a line around a point and mark its characters."""
        self.write(text, x, y + self.cap / 2, 0.5, ink)

    def fill(self, box: Box, colour: Colour, outline: Colour | None = None) -> None:
        """Fill a rectangle of whole pixels."""
        left, top, right, bottom = (round(edge) for edge in box)
        self.pen.rectangle((left, top, right - 1, bottom - 1), fill=colour, outline=outline)

    def mark(self, label: str, box: Box) -> None:
        """Say what stands in a rectangle, as far as it lies inside the picture."""
        left, top, right, bottom = box
        self.marks.append(
            Mark(
                label,
                (
                    max(0, left),
                    max(0, top),
                    min(self.canvas.width, right),
                    min(self.canvas.height, bottom),
                ),
            )
        )
