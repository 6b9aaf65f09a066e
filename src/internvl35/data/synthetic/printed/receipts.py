"""Receipts and price lists: what a thing costs, what costs so much, the total, whole lines.

How lines are set is left to :mod:`internvl35.data.synthetic.printed.typesetting`. No counterpart in
the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from internvl35.data.synthetic.canvas import Canvas, choose_canvas, choose_tile_canvas
from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn, wordings
from internvl35.data.synthetic.labels import Mark
from internvl35.data.synthetic.naming import ORDINALS
from internvl35.data.synthetic.printed.fonts import can_print, choose_font, print_line, text_width
from internvl35.data.synthetic.printed.lines import NTH_WORDINGS, SMALLEST, line_scores
from internvl35.data.synthetic.printed.typesetting import (
    Block,
    choose_inks,
    ink_box,
    place_block,
    set_block,
)

PRICE_WORDINGS = wordings(
    "What does the {item} cost?",
    "How much is the {item}?",
    "What is the price of the {item}?",
    "How much does the {item} cost?",
    "Tell me the price of the {item}.",
    "Which price is printed for the {item}?",
    "What is the price for {item}?",
    "Give the price of the {item}.",
    "According to the receipt, what does the {item} cost?",
    "How much was paid for the {item}?",
    "What does {item} cost?",
    "Read the price of the {item}.",
    "What is the price of {item}? Answer with the price only.",
)
"""Ways to ask for a price; ``{item}`` is in lower case."""

ITEM_WORDINGS = wordings(
    "Which item costs {price}?",
    "What costs {price}?",
    "Which item has the price {price}?",
    "Tell me which item costs {price}.",
    "Which thing is sold for {price}?",
    "What can you buy for {price}?",
    "Name the item that costs {price}.",
    "Which item stands beside {price}?",
    "What was bought for {price}?",
    "The price {price} belongs to which item?",
    "Read the item that costs {price}.",
    "What is the name of the item for {price}?",
)
"""Ways to ask for what has a price."""

TOTAL_WORDINGS = wordings(
    "What is the total?",
    "How much is the total?",
    "How much is it altogether?",
    "What is the total amount?",
    "What does everything cost together?",
    "Read the total.",
    "Tell me the total.",
    "How much has to be paid?",
    "What is the total price?",
    "Give the total of the receipt.",
    "What is the sum at the end?",
    "What was the total amount paid?",
    "What is the total on the receipt? Answer with the amount only.",
)
"""Ways to ask for the amount at the end."""

COUNT_WORDINGS = wordings(
    "How many items were bought?",
    "How many items are on the receipt?",
    "Count the items.",
    "What is the number of items, without the total?",
    "How many things were bought?",
    "How many items have a price here, not counting the total?",
    "Tell me how many items there are.",
    "How many items does the receipt list?",
    "Count the items on the receipt.",
    "How many different items do you see?",
    "How many items are listed above the total?",
    "Give the number of items bought.",
)
"""Ways to ask for the number of items."""

ALL_WORDINGS = wordings(
    "Read the whole receipt.",
    "Read all lines.",
    "Transcribe the receipt.",
    "Transcribe all the text.",
    "Write down all lines of the receipt.",
    "Copy the whole receipt, line by line.",
    "Please read everything that is printed.",
    "What is printed on the receipt? Give every line.",
    "Read all the text in the image.",
    "Transcribe the text line by line.",
    "Give the full text of the receipt.",
    "Read the receipt from top to bottom.",
)
"""Ways to ask for everything."""

ITEMS: Pool[str] = Pool.split(
    "item",
    (
        "milk", "bread", "tea", "syrup", "coffee", "rice", "eggs", "butter", "cheese", "soap",
        "salt", "basil", "soup", "banana", "juice", "tofu", "sugar", "fish", "beans", "tongs",
        "towel", "pasta", "tomato", "dates", "cake", "pen", "book", "ham", "jam", "nuts", "oil",
        "leeks", "pizza", "salad", "yogurt", "cress", "brush", "candle", "flour", "grapes", "peach",
        "socks", "hat", "yarn", "potato", "cookie", "melon", "carrot", "beef", "corn", "cream",
        "twine", "key", "mango", "mustard", "olives", "pepper", "plum", "rope", "vest", "spoon",
        "ticket", "toast", "broom",
    ),
)  # fmt: skip
"""Things to buy."""

MAX_ITEMS = 5
"""Most items of a receipt."""

_SHOPS = ("CORNER SHOP", "City Market", "GREEN FARM", "Book & Cup", "RECEIPT", "Prices", "BAKERY")
_TOTALS = ("Total", "TOTAL", "Total", "Sum", "total")


@dataclass(frozen=True)
class _Receipt:
    """What is printed."""

    items: tuple[tuple[str, str], ...]
    """Names and prices as printed."""
    total: tuple[str, str]
    """Its word and the amount."""
    shop: str
    """Heading; empty for none."""

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """Left and right half of each line, from top to bottom."""
        heading = ((self.shop, ""),) if self.shop else ()
        return (*heading, *self.items, self.total)


def _choose(chance: Chance, sign: str) -> _Receipt:
    rng = chance.rng
    num = rng.randint(2, MAX_ITEMS) if chance.is_hard() else 2
    names: list[str] = []
    while len(names) < num:
        name = chance.pick(ITEMS)
        if name not in names:
            names.append(name)
    cents: list[int] = []
    step = rng.choice((1, 1, 5, 10, 50))
    while len(cents) < num:
        price = rng.randrange(50, rng.choice((500, 1000, 2000)), step)
        if price not in cents:
            cents.append(price)
    style = rng.random() if chance.is_hard() else 1.0
    if style < 0.3:
        names = [name.upper() for name in names]
    elif style > 0.5:
        names = [name.capitalize() for name in names]
    shop = rng.choice(_SHOPS) if chance.is_hard() and rng.random() < 0.3 else ""
    prices = [f"{sign}{price // 100}.{price % 100:02}" for price in (*cents, sum(cents))]
    total = rng.choice(_TOTALS) if chance.is_hard() else "Total"
    return _Receipt(tuple(zip(names, prices, strict=False)), (total, prices[-1]), shop)


def _set(chance: Chance, receipt: _Receipt, font: str) -> tuple[Canvas, Block]:
    canvas = choose_canvas(chance)
    lines = [f"{left}  {right}".strip() for left, right in receipt.rows]
    while True:
        block = set_block(chance, lines, font, canvas, SMALLEST)
        if block is not None:
            return canvas, block
        canvas = choose_tile_canvas(chance.rng)


def _print(
    chance: Chance, receipt: _Receipt, canvas: Canvas, block: Block, inks: tuple[Colour, Colour]
) -> tuple[Image.Image, list[Mark]]:
    """Names flush left, prices flush right, in a column as wide as chance has it."""
    ink, paper = inks
    image = Image.new("RGB", (canvas.width, canvas.height), paper)
    left, top = place_block(chance, block, canvas)
    inked = block.ink
    narrow = inked[2] - inked[0]
    wide = min(canvas.width - left - 3, round(narrow * chance.rng.uniform(1.0, 1.6)))
    right = left + max(narrow, wide)
    base = top - inked[1]
    marks: list[Mark] = []
    for number, (name, price) in enumerate(receipt.rows):
        if number == len(receipt.rows) - 1 and chance.is_hard() and chance.rng.random() < 0.5:
            height = base - round(block.pitch * 0.88)
            ImageDraw.Draw(image).line((left, height, right - 1, height), fill=ink)
        start = left - inked[0]
        if not price and chance.rng.random() < 0.5:
            start += (right - left - text_width(name, block.font, block.size)) // 2
        marks += print_line(image, name, block.font, block.size, (start, base), ink)
        start = right - ink_box(price, block.font, block.size)[2]
        marks += print_line(image, price, block.font, block.size, (start, base), ink)
        base += block.pitch
    return image, marks


def _ask(chance: Chance, receipt: _Receipt) -> tuple[Turn, ...]:
    rng = chance.rng
    lines = [f"{left} {right}".strip() for left, right in receipt.rows]
    (name, price), (other, other_price) = rng.sample(receipt.items, 2)
    which = rng.randrange(len(lines))
    nth = "last" if which == len(lines) - 1 and rng.random() < 0.5 else ORDINALS[which]
    turns = [
        chance.turn(PRICE_WORDINGS, price, "receipt item", parts={"item": name.lower()}),
        chance.turn(TOTAL_WORDINGS, receipt.total[1], "receipt total"),
        chance.turn(NTH_WORDINGS, lines[which], "receipt line", parts={"nth": nth}),
        chance.turn(ITEM_WORDINGS, other, "receipt what", parts={"price": other_price}),
        chance.turn(COUNT_WORDINGS, str(len(receipt.items)), "receipt count"),
    ]
    rng.shuffle(turns)
    turns = turns[: rng.randint(3, 4)]
    if len(lines) <= 4 and rng.random() < 0.3:
        turns.insert(
            rng.randrange(len(turns)), chance.turn(ALL_WORDINGS, "\n".join(lines), "receipt all")
        )
    return tuple(turns)


class Receipts:
    """Two to five items with prices and a total; the answer is a price, a name or a line."""

    name = "receipts"

    def draw(self, chance: Chance) -> Drawing:
        """Print a receipt; a higher level has more items, a heading, a rule, any font."""
        font = choose_font(chance, "")
        has_dollar = chance.is_hard() and can_print(font, "$") and chance.rng.random() < 0.3
        receipt = _choose(chance, "$" if has_dollar else "")
        canvas, block = _set(chance, receipt, font)
        image, marks = _print(chance, receipt, canvas, block, choose_inks(chance))
        turns = _ask(chance, receipt)
        return Drawing(self.name, (image,), turns, (tuple(marks),), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if every character is; ``characters`` tells how near an answer is."""
        return line_scores(turn.answer, answer)
