"""Short videos: what moves which way, what comes in which order, what vanishes.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.shapes.things`, the wordings to
:mod:`internvl35.data.synthetic.shapes.motion_wordings`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import Canvas, choose_small_canvas, place_sizes
from internvl35.data.synthetic.choosing import Asking, ask_some
from internvl35.data.synthetic.colours import choose_background, colours_on
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn
from internvl35.data.synthetic.naming import ORDINALS
from internvl35.data.synthetic.shapes import motion_wordings as asked
from internvl35.data.synthetic.shapes.things import (
    Thing,
    choose_pairs,
    draw_scenes,
    refer,
)

NUM_FRAMES = 4
"""Frames of a video."""

MAX_TURNS = 5
"""Most questions about a video."""

_STEPS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_SIDES = (0.17, 0.25)  # of the frame's shorter side
_PATHS = (0.34, 0.55)


@dataclass(frozen=True)
class _Actor:
    """A thing and what it does."""

    pair: tuple[str, str]
    path: Box
    """All that it covers on its way."""
    side: float
    direction: str = ""
    """Key of ``_STEPS``; empty if it stands still."""
    first: int = 0
    """Frame in which it is there first."""
    last: int = NUM_FRAMES - 1
    """Frame in which it is there for the last time."""

    @property
    def does(self) -> str:
        if self.first:
            return "appears"
        if self.last < NUM_FRAMES - 1:
            return "vanishes"
        return "moves" if self.direction else "stays"

    @property
    def thing(self) -> Thing:
        return self.at(self.first)

    def at(self, frame: int) -> Thing:
        """The thing where it is in a frame."""
        left, top, right, bottom = self.path
        x, y = _STEPS.get(self.direction, (0, 0))
        done = frame / (NUM_FRAMES - 1)
        left += round((right - left - self.side) * (done if x >= 0 else 1 - done))
        top += round((bottom - top - self.side) * (done if y >= 0 else 1 - done))
        return Thing(*self.pair, (left, top, left + self.side, top + self.side))


def _cast(
    chance: Chance, canvas: Canvas, known: list[str], plans: list[tuple[str, int, int]]
) -> list[_Actor]:
    """Find room for things that do what is planned: direction, first and last frame of each."""
    rng, shorter = chance.rng, min(canvas.width, canvas.height)
    pairs = choose_pairs(rng, known, len(plans))
    while True:
        sides = [round(rng.uniform(*_SIDES) * shorter) for _ in plans]
        ways = [round(rng.uniform(*_PATHS) * shorter) for _ in plans]
        sizes = [
            (side + way * abs(x), side + way * abs(y))
            for (direction, _, _), side, way in zip(plans, sides, ways, strict=True)
            for x, y in (_STEPS.get(direction, (0, 0)),)
        ]
        paths = place_sizes(rng, canvas, sizes)
        if paths is not None:
            break
    return [
        _Actor(pair, path, side, *plan)
        for pair, path, side, plan in zip(pairs, paths, sides, plans, strict=True)
    ]


_STILL = ("", 0, NUM_FRAMES - 1)


def _plan_moves(chance: Chance) -> list[tuple[str, int, int]]:
    rng = chance.rng
    is_hard = chance.is_hard()
    directions = rng.sample(list(_STEPS), 2 if is_hard and rng.random() < 0.3 else 1)
    num_still = rng.choice((0, 1, 1, 2, 2)) if is_hard else rng.choice((0, 1))
    return [(direction, 0, NUM_FRAMES - 1) for direction in directions] + [_STILL] * num_still


def _plan_arrivals(chance: Chance) -> list[tuple[str, int, int]]:
    rng = chance.rng
    num = rng.choice((2, 3, 3, 4)) if chance.is_hard() else 2
    frames = rng.sample(range(NUM_FRAMES), num)
    return [("", frame, NUM_FRAMES - 1) for frame in frames]


def _plan_changes(chance: Chance) -> list[tuple[str, int, int]]:
    rng = chance.rng
    is_hard = chance.is_hard()
    cut = rng.randrange(1, NUM_FRAMES)
    plans = [("", cut, NUM_FRAMES - 1), ("", 0, cut - 1)]
    if not is_hard or rng.random() < 0.6:
        plans = [rng.choice(plans)]
    elif rng.random() < 0.5:
        plans[0] = ("", rng.randrange(1, NUM_FRAMES), NUM_FRAMES - 1)
    return plans + [_STILL] * (rng.choice((1, 2, 2)) if is_hard else 1)


def _ask_moves(chance: Chance, actors: list[_Actor]) -> Iterator[Asking]:
    rng, things = chance.rng, [actor.thing for actor in actors]
    movers = [actor for actor in actors if actor.direction]
    still = [actor for actor in actors if not actor.direction]
    for actor in movers:
        name = refer(rng, actor.thing, things)
        yield Asking(asked.DIRECTION_WORDINGS, actor.direction, "direction", {"name": name})
        where = f"{actor.direction} " if len(movers) > 1 or rng.random() < 0.3 else ""
        answer = f"the {actor.thing.name}"
        yield Asking(asked.MOVER_WORDINGS, answer, "what moved", {"where": where})
        is_true = rng.random() < 0.5
        others = [direction for direction in _STEPS if direction != actor.direction]
        do = f"move {actor.direction if is_true else rng.choice(others)}"
        parts = {"name": name, "do": do}
        yield Asking(asked.MOVES_WORDINGS, "yes" if is_true else "no", "yes or no", parts)
    if movers and still:
        is_true = rng.random() < 0.5
        actor = rng.choice(movers if is_true else still)
        parts = {"name": refer(rng, actor.thing, things), "do": "move"}
        yield Asking(asked.MOVES_WORDINGS, "yes" if is_true else "no", "yes or no", parts)


def _ask_order(chance: Chance, actors: list[_Actor]) -> Iterator[Asking]:
    rng, things = chance.rng, [actor.thing for actor in actors]
    order = sorted(actors, key=lambda actor: actor.first)
    for place, actor in enumerate(order):
        words = [ORDINALS[place]]
        if place == len(order) - 1:
            words.append("last")
        parts = {"place": rng.choice(words)}
        yield Asking(asked.ORDER_WORDINGS, f"the {actor.thing.name}", "order", parts)
        name = {"name": refer(rng, actor.thing, things)}
        yield Asking(asked.FRAME_WORDINGS, str(actor.first + 1), "frame", name)
    early, late = sorted(rng.sample(range(len(order)), 2))
    is_turned, is_true = rng.random() < 0.5, rng.random() < 0.5
    one, two = (order[late], order[early]) if is_turned else (order[early], order[late])
    parts = {
        "one": refer(rng, one.thing, things),
        "two": refer(rng, two.thing, things),
        "when": "before" if is_true != is_turned else "after",
    }
    yield Asking(asked.BEFORE_WORDINGS, "yes" if is_true else "no", "yes or no", parts)


def _ask_changes(chance: Chance, actors: list[_Actor]) -> Iterator[Asking]:
    rng, things = chance.rng, [actor.thing for actor in actors]
    words = {"appears": ("appears", "shows up"), "vanishes": ("vanishes", "disappears")}
    for actor in actors:
        # Most things stay or move, but most answers should not say so.
        if actor.does in words or rng.random() < 0.35:
            name = {"name": refer(rng, actor.thing, things)}
            yield Asking(asked.HAPPENS_WORDINGS, actor.does, "appear or vanish", name)
        if actor.does in words:
            does = {"does": rng.choice(words[actor.does])}
            answer = f"the {actor.thing.name}"
            yield Asking(asked.WHICH_WORDINGS, answer, "what changed", does)


def _ask_counts(chance: Chance, actors: list[_Actor]) -> Iterator[Asking]:
    frame = chance.rng.randrange(NUM_FRAMES)
    count = sum(actor.first <= frame <= actor.last for actor in actors)
    parts = {"things": chance.rng.choice(("objects", "shapes", "things")), "frame": str(frame + 1)}
    yield Asking(asked.COUNT_WORDINGS, str(count), "count over time", parts)


class Motion:
    """Four frames in which things move, come one by one, or vanish."""

    name = "motion"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a video of one of three kinds; a higher level has more that stands still."""
        rng = chance.rng
        canvas = choose_small_canvas(chance, plain=112, largest=130)
        background = choose_background(chance)
        known = colours_on(background)
        way = rng.random()
        if way < 0.5:
            actors = _cast(chance, canvas, known, _plan_moves(chance))
            askings = [*_ask_moves(chance, actors), *_ask_changes(chance, actors)]
        elif way < 0.8:
            actors = _cast(chance, canvas, known, _plan_arrivals(chance))
            askings = [*_ask_order(chance, actors), *_ask_counts(chance, actors)]
        else:
            actors = _cast(chance, canvas, known, _plan_changes(chance))
            askings = [*_ask_changes(chance, actors), *_ask_counts(chance, actors)]
        turns = ask_some(chance, askings, MAX_TURNS)
        scenes = [
            [actor.at(frame) for actor in actors if actor.first <= frame <= actor.last]
            for frame in range(NUM_FRAMES)
        ]
        images, marks = draw_scenes(chance, canvas, scenes, background)
        return Drawing(self.name, images, turns, marks, is_video=True, unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected number or name; case and articles do not count."""
        return score_short(turn, answer)
