r"""Short formulas to be written in LaTeX.

Making them up is left to :mod:`internvl35.data.synthetic.code.formula_grammar`, printing to
:mod:`internvl35.data.synthetic.code.formula_layout`. LaTeX has many ways to write one formula
(``x^2``, ``x^{2}``, ``x ^ 2``), so answers are compared after :func:`normalize_latex`. No
counterpart in the paper, whose models learn formulas from public tables.
"""

from __future__ import annotations

import re

from PIL import Image

from internvl35.data.synthetic.canvas import TILE_SIZE, Canvas, choose_tile_canvas
from internvl35.data.synthetic.code.formula_grammar import choose_formula, spell
from internvl35.data.synthetic.code.formula_layout import Layout, lay_out, print_formula
from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Chance, Drawing, Pool, Turn, wordings
from internvl35.data.synthetic.labels import Mark
from internvl35.scoring import edit_distance

FORMULA_WORDINGS = wordings(
    "Write the formula in LaTeX.",
    "What is the LaTeX of this formula?",
    "Convert the formula to LaTeX.",
    "Please write this formula as LaTeX.",
    "Give the LaTeX code of the formula.",
    "Transcribe the formula in LaTeX.",
    "Read the formula and write it in LaTeX.",
    "Which LaTeX code prints this formula?",
    "Turn this formula into LaTeX.",
    "How is this formula written in LaTeX?",
    "Please write out the expression of the formula in the image using LaTeX format.",
    "Output the LaTeX of the expression in the picture.",
    "Write the mathematical expression as LaTeX code.",
    "Recognise the formula and answer in LaTeX.",
    "Recognize the expression in the image; answer with LaTeX only.",
    "Copy the formula as LaTeX source.",
)
"""Ways to ask for the whole formula."""

SIDE_WORDINGS = wordings(
    "What stands {side} of the equals sign, in LaTeX?",
    "Write what is {side} of the equals sign in LaTeX.",
    "Give the LaTeX of the part {side} of the equals sign.",
    "In LaTeX, what is {side} of the equals sign?",
    "Which expression is {side} of the equals sign? Answer in LaTeX.",
    "Write only the part {side} of the equals sign as LaTeX.",
    "Transcribe only what is {side} of the equals sign, in LaTeX.",
    "Please write the expression {side} of the equals sign as LaTeX.",
    "Read what stands {side} of the equals sign and write it in LaTeX.",
    "Convert just the part {side} of the equals sign to LaTeX.",
    "Output the LaTeX for what you see {side} of the equals sign.",
    "What does the equation have {side} of its equals sign, as LaTeX?",
)
"""Ways to ask for one side of an equation; ``{side}`` is "left" or "right"."""

FONTSETS: Pool[str] = Pool("fontset", ("cm", "dejavusans", "dejavuserif"), ("stix",))
"""Typefaces of formulas; one is kept for the test."""

PLAIN_FONTSET = "cm"
"""What the easiest formulas are printed with."""

_EMS = (23.0, 50.0)  # pixels of a tile; digits are two thirds of that, indices 0.7 of digits
_MARGIN = 5


class Formulas:
    """One printed formula; the answer is its LaTeX, or that of one side of it."""

    name = "formulas"

    def draw(self, chance: Chance) -> Drawing:
        """Print a formula; a higher level has longer ones in more typefaces and colours."""
        rng = chance.rng
        canvas = choose_tile_canvas(rng) if chance.is_hard() else Canvas(TILE_SIZE, TILE_SIZE)
        fontset = chance.pick(FONTSETS) if chance.is_hard() else PLAIN_FONTSET
        while True:
            left, right = choose_formula(chance)
            layout = lay_out([*left, "=", *right] if right else left, fontset)
            low, high = _em_range(layout, canvas)
            if low <= high:
                break
        em = low * (high / low) ** rng.random() if chance.is_hard() else high
        image, marks = _print(chance, canvas, layout, em)
        whole = spell([*left, "=", *right] if right else left)
        turns = [chance.turn(FORMULA_WORDINGS, whole, "formula")]
        if right:
            turns += [
                chance.turn(SIDE_WORDINGS, spell(tokens), "side", parts={"side": side})
                for side, tokens in (("left", left), ("right", right))
            ]
            rng.shuffle(turns)
        return Drawing(self.name, (image,), tuple(turns), (marks,), unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Compare the answer after :func:`normalize_latex`.

        Args:
            turn: what was asked.
            answer: LaTeX.

        Returns:
            ``right`` if it prints the same; ``characters``, the share of characters that agree.
        """
        expected, found = normalize_latex(turn.answer), normalize_latex(answer)
        return {
            "right": float(expected == found),
            "characters": 1.0 - edit_distance(expected, found),
        }


def _em_range(layout: Layout, canvas: Canvas) -> tuple[float, float]:
    """Smallest legible and largest fitting size; the first exceeds the second if there is none."""
    low = _EMS[0] * max(canvas.shrink)
    high = min(
        _EMS[1] * min(canvas.shrink),
        (canvas.width - 2 * _MARGIN - 4) / (layout.width + 0.1),
        (canvas.height - 2 * _MARGIN - 4) / (layout.top - layout.bottom),
    )
    return low, high


def _print(
    chance: Chance, canvas: Canvas, layout: Layout, em: float
) -> tuple[Image.Image, tuple[Mark, ...]]:
    rng = chance.rng
    ink, marks = print_formula(layout, em)
    pen, paper = _choose_inks(chance)
    image = Image.new("RGB", (canvas.width, canvas.height), paper)
    room_x, room_y = canvas.width - ink.shape[1], canvas.height - ink.shape[0]
    x, y = room_x // 2, room_y // 2
    if chance.is_hard():
        x, y = (
            rng.randint(min(_MARGIN, x), room_x - min(_MARGIN, x)),
            rng.randint(min(_MARGIN, y), room_y - min(_MARGIN, y)),
        )
    image.paste(pen, (x, y), Image.fromarray(ink))
    moved = []
    for mark in marks:
        left, top, right, bottom = mark.box
        moved.append(Mark(mark.label, (left + x, top + y, right + x, bottom + y)))
    return image, tuple(moved)


def _choose_inks(chance: Chance) -> tuple[Colour, Colour]:
    """Colours of print and paper: black on white, or any dark on any light, or the reverse."""
    rng = chance.rng
    if not chance.is_hard() or rng.random() < 0.4:
        return (0, 0, 0), (255, 255, 255)
    dark = (rng.randint(0, 90), rng.randint(0, 70), rng.randint(0, 110))
    light = (rng.randint(215, 255), rng.randint(215, 255), rng.randint(205, 255))
    return (light, dark) if rng.random() < 0.25 else (dark, light)


_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[^\s\\]", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*\n?")
_SILENT = frozenset(
    {r"\left", r"\right", r"\,", r"\;", r"\!", r"\:", r"\quad", r"\displaystyle", r"\limits", "$"}
    | {r"\(", r"\)", r"\[", r"\]", r"\ "}
)
_SAME = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\le": r"\leq", r"\ge": r"\geq", r"\ne": r"\neq",
    r"\rightarrow": r"\to", "−": "-", r"\lt": "<", r"\gt": ">",
}  # fmt: skip
_MAX_CHARACTERS = 2000


def normalize_latex(text: str) -> str:
    r"""Reduce LaTeX to what is printed: no blanks, no braces around single tokens.

    Args:
        text: LaTeX, perhaps between dollar signs or in a fence.

    Returns:
        Tokens with a blank between them; ``_`` before ``^``; ``\left``, ``\,`` and other commands
        that print nothing are left out.
    """
    levels: list[list[str]] = [[]]
    for token in _TOKEN.findall(_FENCE.sub("", text[:_MAX_CHARACTERS])):
        if token == "{":
            levels.append([])
        elif token == "}" and len(levels) > 1:
            group = _order_scripts(levels.pop())
            levels[-1].append(group[0] if len(group) == 1 else f"{{ {' '.join(group)} }}")
        elif token not in _SILENT:
            levels[-1].append(_SAME.get(token, token))
    return " ".join(_order_scripts([part for level in levels for part in level])).removesuffix(" .")


def _order_scripts(parts: list[str]) -> list[str]:
    for place in range(len(parts) - 3):
        if parts[place] == "^" and parts[place + 2] == "_":
            up, down = parts[place + 1], parts[place + 3]
            parts[place : place + 4] = ["_", down, "^", up]
    return parts
