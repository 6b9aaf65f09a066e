"""Pictures with numbers to reckon with: numbered shapes, price lists, printed sums.

What is asked about them is left to :mod:`internvl35.data.synthetic.sums.sums`. No counterpart in
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import Canvas, choose_single_canvas
from internvl35.data.synthetic.colours import COLOURS, Colour, choose_background, ink_on
from internvl35.data.synthetic.drawing import Chance, Pool
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.printed.fonts import (
    cap_share,
    choose_font,
    print_line,
    size_for_caps,
    text_width,
)
from internvl35.data.synthetic.shapes.things import Thing, draw_things, mark_things

Picture = tuple[Image.Image, tuple[Mark, ...]]
"""A picture, and what stands where in it."""

GOODS: Pool[tuple[str, str]] = Pool(
    "goods",
    (
        ("apple", "apples"), ("pear", "pears"), ("lemon", "lemons"), ("banana", "bananas"),
        ("egg", "eggs"), ("cake", "cakes"), ("book", "books"), ("pen", "pens"), ("cup", "cups"),
        ("ball", "balls"), ("hat", "hats"), ("kite", "kites"), ("plum", "plums"),
        ("melon", "melons"), ("ruler", "rulers"), ("bag", "bags"), ("toy", "toys"),
        ("flower", "flowers"), ("cookie", "cookies"), ("map", "maps"),
    ),
    (("orange", "oranges"), ("carrot", "carrots"), ("plate", "plates"), ("lamp", "lamps")),
)  # fmt: skip
"""Things with a price, one and several of each."""

_CAPS = (10.5, 24.0)  # height of a capital when the picture is shrunk to a tile
_MIDDLES = {"triangle": 0.66, "heart": 0.47, "star": 0.53}  # of the height of a shape
_DIGIT_SHARES = {"circle": 0.44, "square": 0.5, "triangle": 0.32, "heart": 0.36, "star": 0.28}


def draw_numbered(
    chance: Chance,
    canvas: Canvas,
    things: Sequence[Thing],
    numbers: Sequence[int],
    background: Colour,
) -> Picture:
    """Draw shapes with a number printed on each.

    Args:
        chance: of shades and font.
        canvas: size of the picture.
        things: the shapes.
        numbers: of one digit, one a shape.
        background: behind the shapes.
    """
    image = draw_things(chance, canvas, things, background)
    marks = list(mark_things(things))
    font = choose_font(chance, "")
    for thing, number in zip(things, numbers, strict=True):
        cap = _DIGIT_SHARES.get(thing.shape, 0.34) * thing.side
        size = size_for_caps(font, cap)
        left = thing.middle[0] - text_width(str(number), font, size) / 2
        base = thing.box[1] + _MIDDLES.get(thing.shape, 0.5) * thing.side + cap / 2
        start = (round(left), round(base))
        marks += print_line(image, str(number), font, size, start, ink_on(COLOURS[thing.colour]))
    return image, tuple(marks)


def draw_lines(chance: Chance, lines: Sequence[str]) -> Picture:
    """Print lines below each other, as large as there is room or smaller.

    Args:
        chance: of size, place, font and colours; an easy drawing is large and in the middle.
        lines: from top to bottom.
    """
    rng = chance.rng
    while True:
        font = choose_font(chance, "".join(lines))
        canvas = choose_single_canvas(chance)
        size = _choose_size(chance, canvas, font, lines, 1.9 * len(lines))
        if size:
            break
    background = choose_background(chance)
    image = Image.new("RGB", (canvas.width, canvas.height), background)
    step = round(1.9 * cap_share(font) * size)
    width = max(text_width(line, font, size) for line in lines)
    room = canvas.width - width, canvas.height - step * len(lines)
    left, top = room[0] // 2, room[1] // 2
    if chance.is_hard():
        left, top = rng.randint(3, room[0] - 3), rng.randint(2, room[1] - 2)
    marks: list[Mark] = []
    for number, line in enumerate(lines):
        base = top + step * number + round(1.45 * cap_share(font) * size)
        marks += print_line(image, line, font, size, (left, base), ink_on(background))
    return image, tuple(marks)


def draw_prices(chance: Chance, names: Sequence[str], prices: Sequence[int]) -> Picture:
    """Print what things cost, as a list or on tags.

    Args:
        chance: of style, size, font and colours; an easy drawing is a list.
        names: two to four things.
        prices: of one digit.
    """
    sign = "$" if chance.is_hard() and chance.rng.random() < 0.5 else ""
    texts = [f"{sign}{price}" for price in prices]
    if chance.is_hard() and chance.rng.random() < 0.5:
        return _draw_tags(chance, names, texts)
    gap = chance.rng.randint(2, 5) if chance.is_hard() else 3
    longest = max(len(name) for name in names)
    if chance.rng.random() < 0.5:
        return draw_lines(chance, [f"{n}: {p}" for n, p in zip(names, texts, strict=True)])
    return draw_lines(
        chance,
        [
            f"{name}{'.' * (longest - len(name) + gap)} {price}"
            for name, price in zip(names, texts, strict=True)
        ],
    )


def _draw_tags(chance: Chance, names: Sequence[str], texts: Sequence[str]) -> Picture:
    rng = chance.rng
    rows = 1 if len(names) == 2 and rng.random() < 0.5 else 2
    columns = -(-len(names) // rows)
    while True:
        font = choose_font(chance, "".join((*names, *texts)))
        canvas = choose_single_canvas(chance)
        cell = Canvas(canvas.width // columns, canvas.height // rows)
        size = _choose_size(chance, canvas, font, names, 5.0 * rows, columns)
        if size:
            break
    background, paper = choose_background(chance), _PAPERS[rng.randrange(len(_PAPERS))]
    image = Image.new("RGB", (canvas.width, canvas.height), background)
    pen = ImageDraw.Draw(image)
    marks: list[Mark] = []
    cap = cap_share(font) * size
    for number, (name, text) in enumerate(zip(names, texts, strict=True)):
        middle_x = round((number % columns + 0.5) * cell.width)
        middle_y = round((number // columns + 0.5) * cell.height)
        half_x, half_y = round(0.47 * cell.width), round(2.1 * cap)
        box = (middle_x - half_x, middle_y - half_y, middle_x + half_x, middle_y + half_y)
        pen.rounded_rectangle(box, round(cap / 2), fill=paper, outline=(90, 90, 90))
        for line, base in ((name, middle_y - 0.35 * cap), (text, middle_y + 1.45 * cap)):
            left = middle_x - text_width(line, font, size) // 2
            marks += print_line(image, line, font, size, (left, round(base)), ink_on(paper))
    return image, tuple(marks)


_PAPERS: tuple[Colour, ...] = (
    (255, 255, 255), (255, 246, 200), (214, 236, 255), (222, 250, 216), (255, 222, 226),
    (40, 60, 110), (20, 90, 60), (120, 24, 34),
)  # fmt: skip


def _choose_size(
    chance: Chance,
    canvas: Canvas,
    font: str,
    lines: Sequence[str],
    num_caps: float,
    columns: int = 1,
) -> int:
    """Font size at which each line fits a column and so many capitals fit the height, or 0."""
    low = _CAPS[0] * max(canvas.shrink) / cap_share(font)
    width = max(text_width(line, font, 100) for line in lines) / 100
    high = min(
        _CAPS[1] * min(canvas.shrink) / cap_share(font),
        (0.84 * canvas.width / columns - 8) / width,
        (0.96 * canvas.height - 6) / (num_caps * cap_share(font)),
    )
    if low > high:
        return 0
    return int(chance.rng.uniform(low, high) if chance.is_hard() else high)
