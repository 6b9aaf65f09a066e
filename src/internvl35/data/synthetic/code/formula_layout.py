r"""Printing formulas: rows, fractions, and what mathtext of matplotlib makes of their parts.

Which formulas there are is left to :mod:`internvl35.data.synthetic.code.formula_grammar`. Parsing a
formula takes mathtext longer than drawing it, so it lays out single symbols with what hangs on
them, each once, and they are put together here. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from matplotlib.font_manager import FontProperties, get_font
from matplotlib.ft2font import GlyphIndexType, LoadFlags
from matplotlib.mathtext import MathTextParser
from numpy.typing import NDArray

from internvl35.data.synthetic.code.formula_grammar import spell
from internvl35.data.synthetic.labels import GLYPHS, Mark

OPERATORS = frozenset({"+", "-", r"\cdot", r"\times", r"\pm"})
"""Signs with a little room on both sides."""
RELATIONS = frozenset({"=", "<", ">", r"\leq", r"\geq", r"\neq", r"\approx"})
"""Signs with more room on both sides, most of which mathtext gives them."""
NAMES = frozenset({r"\sin", r"\cos", r"\tan", r"\log", r"\ln", r"\exp"})
"""Functions; room stands behind them unless a parenthesis does."""

_EM = 200.0  # large, as mathtext rounds widths up to whole pixels
_OPERATOR_ROOM, _RELATION_ROOM, _NAME_ROOM = 0.22, 0.06, 0.17  # shares of the em
_RULE, _GAP = 0.05, 0.22
_LARGE = (r"\int", r"\sum", r"\prod", r"\lim")


@dataclass(frozen=True)
class Piece:
    """One glyph or one rule; lengths are shares of the em, upwards from the base line."""

    file: str
    """Font file; empty for a rule."""
    size: float
    """Size of the font; of a rule, its thickness."""
    code: int
    """Code of the character in its font."""
    index: int
    """Number of the glyph in its font."""
    x: float
    """Left end of the pen."""
    y: float
    """Base line of a glyph; lower edge of a rule."""
    width: float = 0.0
    """Of a rule."""

    def moved(self, x: float, y: float) -> Piece:
        """The same elsewhere."""
        return Piece(
            self.file, self.size, self.code, self.index, self.x + x, self.y + y, self.width
        )


@dataclass(frozen=True)
class Layout:
    """Pieces side by side; lengths are shares of the em."""

    pieces: tuple[Piece, ...]
    """Where what stands."""
    width: float
    """How far the pen moves on."""
    top: float
    """Highest ink above the base line."""
    bottom: float
    """Lowest ink, negative below the base line."""


def lay_out(tokens: Sequence[str], fontset: str) -> Layout:
    """Lay a row of tokens out.

    Args:
        tokens: LaTeX, balanced.
        fontset: typeface.
    """
    parts: list[tuple[Layout, float, float]] = []  # with room before and behind
    place = 0
    while place < len(tokens):
        token = tokens[place]
        if token == r"\frac":
            middle = _end(tokens, place + 1)
            end = _end(tokens, middle)
            above = lay_out(tokens[place + 2 : middle - 1], fontset)
            below = lay_out(tokens[middle + 1 : end - 1], fontset)
            parts.append((_stack(above, below, _axis(fontset)), 0.06, 0.06))
        elif token in OPERATORS or token in RELATIONS:
            end = place + 1
            room = _RELATION_ROOM if token in RELATIONS else _OPERATOR_ROOM
            parts.append((_atom(token, fontset), room, room))
        else:
            end = _end_of_atom(tokens, place)
            has_room = token in _LARGE or (token in NAMES and tokens[end : end + 1] != ["("])
            room = _NAME_ROOM if has_room else 0.0
            parts.append((_atom(spell(tokens[place:end]), fontset), 0.0, room))
        place = end
    pen, pieces = 0.0, []
    for part, before, behind in parts:
        pieces += [piece.moved(pen + before, 0.0) for piece in part.pieces]
        pen += before + part.width + behind
    tops, bottoms = [part.top for part, *_ in parts], [part.bottom for part, *_ in parts]
    return Layout(tuple(pieces), pen, max(tops), min(bottoms))


def _end(tokens: Sequence[str], start: int) -> int:
    """Where the group or the token at a place ends."""
    depth = 0
    for place in range(start, len(tokens)):
        depth += (tokens[place] == "{") - (tokens[place] == "}")
        if depth == 0:
            return place + 1
    raise AssertionError(f"unbalanced braces in {spell(tokens)}")


def _end_of_atom(tokens: Sequence[str], start: int) -> int:
    """Where a symbol ends with its argument, its index and its power."""
    end = _end(tokens, start + 1) if tokens[start] == r"\sqrt" else start + 1
    while end < len(tokens) and tokens[end] in ("_", "^"):
        end = _end(tokens, end + 1)
    return end


def _stack(above: Layout, below: Layout, axis: float) -> Layout:
    width = max(above.width, below.width) + 0.1
    rise, drop = axis + _RULE / 2 + _GAP - above.bottom, axis - _RULE / 2 - _GAP - below.top
    pieces = [piece.moved((width - above.width) / 2, rise) for piece in above.pieces]
    pieces += [piece.moved((width - below.width) / 2, drop) for piece in below.pieces]
    pieces.append(Piece("", _RULE, 0, 0, 0.0, axis - _RULE / 2, width))
    return Layout(tuple(pieces), width, rise + above.top, drop + below.bottom)


@lru_cache(maxsize=8)
def _axis(fontset: str) -> float:
    """Height of the minus sign, which the rule of a fraction continues."""
    minus = _atom("-", fontset)
    return (minus.top + minus.bottom) / 2


@lru_cache(maxsize=8192)
def _atom(text: str, fontset: str) -> Layout:
    # Alone, a sign gets no room from mathtext unless it is a relation.
    font = FontProperties(size=_EM, math_fontfamily=fontset)
    printed = MathTextParser("path").parse(f"${{{text}}}$", dpi=72, prop=font)
    pieces: list[Piece] = []
    tops, bottoms = [], []
    for face, size, code, index, x, y in printed.glyphs:
        pieces.append(
            Piece(str(face.fname), size / _EM, code, index, float(x) / _EM, float(y) / _EM)
        )
        face.set_size(size, 72)
        box = face.load_glyph(index, flags=LoadFlags.NO_HINTING).bbox
        bottoms.append((float(y) + box[1] / 64) / _EM)
        tops.append((float(y) + box[3] / 64) / _EM)
    for x, y, width, height in printed.rects:
        low, thick = float(y) / _EM, float(height) / _EM
        pieces.append(Piece("", thick, 0, 0, float(x) / _EM, low, float(width) / _EM))
        bottoms.append(low)
        tops.append(low + thick)
    return Layout(tuple(pieces), float(printed.width) / _EM, max(tops), min(bottoms))


def print_formula(layout: Layout, em: float) -> tuple[NDArray[np.uint8], list[Mark]]:
    """Print a formula.

    Args:
        layout: of its tokens.
        em: pixels.

    Returns:
        Ink, 0 to 255, ``(height, width)`` without a margin, and marks of the characters that have
        a label.
    """
    pad = round(em)
    height = round((layout.top - layout.bottom) * em) + 2 * pad
    ink = np.zeros((height, round(layout.width * em) + 2 * pad), dtype=np.uint8)
    base = pad + layout.top * em
    marks: list[Mark] = []
    for piece in layout.pieces:
        across = round(pad + piece.x * em)
        if not piece.file:
            thick = max(1, round(piece.size * em))
            down = round(base - piece.y * em - thick)
            ink[down : down + thick, across : across + round(piece.width * em)] = 255
            continue
        face = get_font(piece.file)
        face.set_size(piece.size * em, 72)
        glyph = face.load_glyph(GlyphIndexType(piece.index), flags=LoadFlags.NO_HINTING)
        left, bottom, right, top = (edge / 64 for edge in glyph.bbox)
        part = np.zeros((int(top - bottom) + 3, int(right - left) + 3), dtype=np.uint8)
        face.draw_glyph_to_bitmap(part, 0, 0, glyph, antialiased=True)
        part = _trim(part)
        x, y = round(pad + piece.x * em + left), round(base - piece.y * em - top)
        place = ink[y : y + part.shape[0], x : x + part.shape[1]]
        np.maximum(place, part, out=place)
        label = _label(piece.file, piece.code)
        if label is not None:
            marks.append(Mark(label, (x, y, x + part.shape[1], y + part.shape[0])))
    return _crop(ink, marks)


def _trim(ink: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    return ink[: rows[-1] + 1, : columns[-1] + 1] if rows.size else ink[:1, :1]


def _crop(ink: NDArray[np.uint8], marks: list[Mark]) -> tuple[NDArray[np.uint8], list[Mark]]:
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    x, y = int(columns[0]), int(rows[0])
    moved = []
    for mark in marks:
        left, top, right, bottom = mark.box
        moved.append(Mark(mark.label, (left - x, top - y, right - x, bottom - y)))
    return ink[y : rows[-1] + 1, x : columns[-1] + 1], moved


_MINUS = frozenset({("cmsy10", 0), ("cmsy10", 161)})
_DIRECT_FILES = (
    "cmr10",
    "DejaVu",
    "STIX",
)  # other files of Computer Modern have codes of their own


def _label(file: str, code: int) -> str | None:
    """The label of a glyph, if it is a character that print has too."""
    name = file.rpartition("/")[2].removesuffix(".ttf")
    character = "-" if code == 0x2212 or (name, code) in _MINUS else chr(code)
    is_letter = name == "cmmi10" and character.isascii() and character.isalpha()
    is_direct = any(part in name for part in _DIRECT_FILES) or (name, code) in _MINUS
    return f"glyph:{character}" if (is_letter or is_direct) and character in GLYPHS else None
