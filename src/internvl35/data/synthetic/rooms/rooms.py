"""Plans of rooms, seen from above: furniture between walls, a door, at times metres.

Symbols are left to :mod:`internvl35.data.synthetic.rooms.furniture`, geometry to
:mod:`internvl35.data.synthetic.rooms.room_plans`, questions to
:mod:`internvl35.data.synthetic.rooms.room_questions`. Paper section 3 (spatial reasoning).
"""

from __future__ import annotations

from dataclasses import dataclass

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import choose_single_canvas
from internvl35.data.synthetic.choosing import ask_some
from internvl35.data.synthetic.colours import Colour
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn
from internvl35.data.synthetic.printed.paper import Paper
from internvl35.data.synthetic.rooms.furniture import KINDS, Tints, draw_symbol
from internvl35.data.synthetic.rooms.room_plans import Piece, Room, Size, place_pieces
from internvl35.data.synthetic.rooms.room_questions import ask_room

_MAX_COUNT = 4
_MAX_PIECES = 7
_LEAST_SQUEEZE = 0.86
_WOODS = ((255, 255, 255), (250, 246, 238), (244, 236, 222), (238, 240, 244), (240, 246, 238))


@dataclass(frozen=True)
class _Style:
    """How a plan looks."""

    has_names: bool
    """Names stand below the symbols."""
    has_metres: bool
    """Sides are printed."""
    has_grid: bool
    """Lines at each metre, or tiles of the floor."""
    is_outlined: bool
    """Symbols are drawn in lines, without colours of their own."""
    can_turn: bool
    """Symbols may be turned."""
    spread: float
    """How far sizes may be from usual."""
    floor: Colour


def _choose_style(chance: Chance) -> _Style:
    rng = chance.rng
    if not chance.is_hard():
        return _Style(False, False, False, False, False, 0, (255, 255, 255))
    return _Style(
        has_names=rng.random() < 0.45,
        has_metres=rng.random() < 0.25,
        has_grid=rng.random() < 0.3,
        is_outlined=rng.random() < 0.2,
        can_turn=rng.random() < 0.7,
        spread=0.14,
        floor=rng.choice(_WOODS),
    )


def _choose_names(chance: Chance, style: _Style) -> tuple[list[str], str]:
    """Names of all pieces, and the one of which there may be several."""
    rng = chance.rng
    num = rng.randint(1, _MAX_COUNT)
    most = max(3, _MAX_PIECES - num - style.has_names - style.has_metres)
    num_others = rng.randint(2 if num > 1 else 3, most) if chance.is_hard() else 2
    repeated, *others = rng.sample(list(KINDS), num_others + 1)
    return [repeated] * num + others, repeated


def _choose_floor(chance: Chance, paper: Paper, style: _Style) -> tuple[Box, tuple[int, int]]:
    """Inner edges of the walls, and metres of the sides."""
    rng, canvas = chance.rng, paper.canvas
    unit = max(canvas.shrink)
    rim = 9 * unit
    left = top = rim
    right, bottom = canvas.width - rim, canvas.height - rim
    metres = (0, 0)
    if style.has_metres:
        top += paper.cap + 3 * unit
        left += paper.width("8 m") + 3 * unit
        while not 0.7 <= metres[0] / max(1, metres[1]) <= 1.43:
            metres = rng.randint(3, 8), rng.randint(3, 8)
        scale = min((right - left) / metres[0], (bottom - top) / metres[1])
        right, bottom = left + scale * metres[0], top + scale * metres[1]
    return (round(left), round(top), round(right), round(bottom)), metres


def _choose_openings(chance: Chance, floor: Box, wall: int, unit: float) -> tuple[Piece, ...]:
    """A door in one wall, and at times a window in another."""
    rng = chance.rng
    openings: list[Piece] = []
    for name, side in zip(("door", "window"), rng.sample(range(4), 2), strict=True):
        if name == "window" and (not chance.is_hard() or rng.random() < 0.55):
            break
        left, top, right, bottom = floor
        length = round((28 if name == "door" else 36) * unit)
        if side < 2:
            start = rng.randint(round(left) + 3, round(right) - length - 3)
            edge = (top - wall, top) if side == 0 else (bottom, bottom + wall)
            box: Box = (start, edge[0], start + length, edge[1])
        else:
            start = rng.randint(round(top) + 3, round(bottom) - length - 3)
            edge = (left - wall, left) if side == 2 else (right, right + wall)
            box = (edge[0], start, edge[1], start + length)
        openings.append(Piece(name, box))
    return tuple(openings)


def _choose_sizes(
    chance: Chance, paper: Paper, style: _Style, names: list[str], unit: float
) -> list[Size]:
    rng = chance.rng
    sizes: list[Size] = []
    for name in names:
        # A full room has smaller things, or there would be no place for the last of them.
        usual = unit * (1 if len(names) < 6 else 0.9)
        kind, grow = KINDS[name], rng.uniform(1 - style.spread, 1 + style.spread) * usual
        width, height = round(kind.width * grow), round(kind.height * grow)
        quarters = rng.randrange(4) if style.can_turn else 0
        if quarters % 2:
            width, height = height, width
        label_width = paper.width(name) if style.has_names else 0
        sizes.append(Size(name, width, height, quarters, label_width))
    sizes.sort(key=lambda size: -size.width * size.height)  # the largest find room first
    return sizes


def _choose_room(chance: Chance, style: _Style, names: list[str]) -> tuple[Chance, Paper, Room]:
    """Find a place for everything; the chance that comes back knows what the plan shows."""
    rng = chance.rng
    squeeze = 1.0  # after each failure things become a little smaller
    while True:
        chance = chance.begin_again()
        paper = Paper(chance, choose_single_canvas(chance), caps=(9.2, 10.4))
        unit = max(paper.canvas.shrink)
        floor, metres = _choose_floor(chance, paper, style)
        wall = round((rng.uniform(4, 6.5) if chance.is_hard() else 5) * unit)
        if min(floor[2] - floor[0], floor[3] - floor[1]) < 100 * unit:
            continue
        openings = _choose_openings(chance, floor, wall, unit)
        room = Room(floor, wall, (), openings, metres if style.has_metres else None)
        sizes = _choose_sizes(chance, paper, style, names, unit * squeeze)
        below = paper.cap + round(5 * unit) if style.has_names else 0
        for _ in range(4):
            pieces = place_pieces(rng, room, sizes, 4 * unit, below)
            if pieces is not None:
                return chance, paper, Room(floor, wall, pieces, openings, room.metres)
        squeeze = max(_LEAST_SQUEEZE, 0.95 * squeeze)


def _draw_walls(paper: Paper, room: Room, style: _Style) -> None:
    left, top, right, bottom = room.floor
    wall = room.wall
    outer = (left - wall, top - wall, right + wall, bottom + wall)
    paper.fill(outer, (190, 190, 196) if paper.is_dark else (60, 60, 66))
    paper.fill(room.floor, style.floor)
    for strip in (
        (outer[0], outer[1], outer[2], top),
        (outer[0], bottom, outer[2], outer[3]),
        (outer[0], outer[1], left, outer[3]),
        (right, outer[1], outer[2], outer[3]),
    ):
        paper.mark("part:wall", strip)
    if style.has_grid:
        columns, rows = room.metres or (6, 6)
        faint = (214, 214, 218)
        for step in range(1, columns):
            x = left + (right - left) * step / columns
            paper.pen.line((x, top, x, bottom - 1), faint)
        for step in range(1, rows):
            y = top + (bottom - top) * step / rows
            paper.pen.line((left, y, right - 1, y), faint)
    for opening in room.openings:
        if opening.name == "door":
            paper.fill(opening.box, (176, 108, 48))
            paper.mark("part:door", opening.box)
        else:
            paper.fill(opening.box, (150, 210, 246), (70, 120, 170))
        paper.mark(f"furniture:{opening.name}", opening.box)


def _draw_metres(paper: Paper, room: Room, unit: float) -> None:
    if room.metres is None:
        return
    left, top, right, bottom = room.floor
    gap = room.wall + 3 * unit
    paper.write(f"{room.metres[0]} m", (left + right) / 2, top - gap, 0.5)
    paper.write(f"{room.metres[1]} m", left - gap, (top + bottom + paper.cap) / 2, 1)


def _draw_pieces(chance: Chance, paper: Paper, room: Room, style: _Style) -> None:
    rng = chance.rng
    line = (30, 30, 34)
    spread = round(16 * chance.level)
    for piece in room.pieces:
        kind = KINDS[piece.name]
        shades = [
            (255, 255, 255)
            if style.is_outlined
            else tuple(min(255, max(0, part + rng.randint(-spread, spread))) for part in colour)
            for colour in (kind.body, kind.detail)
        ]
        body, detail = ((shade[0], shade[1], shade[2]) for shade in shades)
        left, top, right, bottom = (round(edge) for edge in piece.box)
        width, height = right - left, bottom - top
        if piece.quarters % 2:
            width, height = height, width
        tints = Tints(line, body, detail)
        symbol = draw_symbol(piece.name, width, height, tints=tints, quarters=piece.quarters)
        paper.image.paste(symbol, (left, top), symbol)
        paper.mark(f"furniture:{piece.name}", piece.box)
        paper.mark("part:furniture", piece.box)
        if style.has_names:
            base = bottom + paper.cap + round(3 * max(paper.canvas.shrink))
            paper.write(piece.name, (left + right) / 2, base, 0.5, ink=(0, 0, 0))


class Rooms:
    """Four to seven pieces of furniture in a room; the answer is a name, a number or a side."""

    name = "rooms"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a plan; a higher level has more furniture, turned, named or in lines alone."""
        style = _choose_style(chance)
        names, repeated = _choose_names(chance, style)
        chance, paper, room = _choose_room(chance, style, names)
        unit = max(paper.canvas.shrink)
        _draw_walls(paper, room, style)
        _draw_metres(paper, room, unit)
        _draw_pieces(chance, paper, room, style)
        turns = ask_some(chance, ask_room(chance, room, repeated, unit), chance.rng.randint(4, 5))
        return Drawing(
            self.name, (paper.image,), turns, (tuple(paper.marks),), unseen=chance.unseen
        )

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the name, the side, the letter or exactly the number."""
        if turn.kind == "choice":  # VSI-Bench takes the first word
            answer = (answer.split() or [""])[0].rstrip(".:)")
        return score_short(turn, answer)
