"""Several pictures at a time: whether they agree, what changed, which of them has how many of what.

Drawing the shapes is left to :mod:`internvl35.data.synthetic.shapes.things`, the wordings to
:mod:`internvl35.data.synthetic.shapes.several_wordings`. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from internvl35.data.synthetic.answers import score_short
from internvl35.data.synthetic.canvas import Canvas, choose_small_canvas, is_apart, place_sizes
from internvl35.data.synthetic.choosing import Asking, ask_some
from internvl35.data.synthetic.colours import choose_background, colours_on
from internvl35.data.synthetic.drawing import Box, Chance, Drawing, Turn
from internvl35.data.synthetic.labels import SHAPES
from internvl35.data.synthetic.naming import ORDINALS, plural, with_article
from internvl35.data.synthetic.shapes import several_wordings as asked
from internvl35.data.synthetic.shapes.things import Thing, choose_pairs, draw_scenes

SAME_SHARE = 0.42
"""How many pairs of pictures agree; less is asked about them, so that half of the first questions
whether they do are about such pairs."""

MAX_TURNS = 5
"""Most questions about a set of pictures."""

_SIDES = (0.17, 0.24)  # of the picture's shorter side
_SHRUNK = 0.55  # of the side, where a size changes
_LEAST_MOVE = 0.35  # of the picture's shorter side

_Scene = list[Thing]


def _place(chance: Chance, canvas: Canvas, num: int) -> list[Box]:
    rng, shorter = chance.rng, min(canvas.width, canvas.height)
    while True:
        sides = [round(rng.uniform(*_SIDES) * shorter) for _ in range(num)]
        boxes = place_sizes(rng, canvas, [(side, side) for side in sides])
        if boxes is not None:
            return boxes


def _shrink(box: Box) -> Box:
    side = round(_SHRUNK * (box[2] - box[0]))
    left = round((box[0] + box[2] - side) / 2)
    top = round((box[1] + box[3] - side) / 2)
    return left, top, left + side, top + side


def _change(chance: Chance, canvas: Canvas, known: list[str]) -> tuple[_Scene, _Scene, str]:
    """Two scenes that differ in one thing, and how to say in what."""
    rng = chance.rng
    num = rng.choice((1, 2, 3, 3, 4)) if chance.is_hard() else rng.choice((1, 2))
    while True:
        boxes = _place(chance, canvas, num + 1)
        *pairs, (colour, shape) = choose_pairs(rng, known, num + 1)
        one = [Thing(*pair, box) for pair, box in zip(pairs, boxes, strict=False)]
        place = rng.randrange(num)
        thing, rest = one[place], one[:place] + one[place + 1 :]
        new = Thing(colour, shape, boxes[-1])
        aspect = rng.choice(("colour", "shape", "size", "place", "new", "gone"))
        if aspect == "new":
            return one, [*one, new], f"the {new.name} is new"
        if aspect == "gone":
            return [*one, new], one, f"the {new.name} is gone"
        if aspect == "size":
            large = replace(thing, box=_grow(thing.box, canvas))
            small = replace(thing, box=_shrink(large.box))
            if not all(is_apart(large.box, other.box, 2, 2) for other in rest):
                continue
            before, after = (large, small) if rng.random() < 0.5 else (small, large)
        elif aspect == "place":
            before, after = thing, _move(thing, boxes[-1])
            far = max(abs(a - b) for a, b in zip(before.middle, after.middle, strict=True))
            if far < _LEAST_MOVE * min(canvas.width, canvas.height):
                continue
        else:
            other_colour = rng.choice([name for name in known if name != thing.colour])
            other_shape = rng.choice([name for name in SHAPES if name != thing.shape])
            before = thing
            after = (
                replace(thing, colour=other_colour)
                if aspect == "colour"
                else replace(thing, shape=other_shape)
            )
            if after.name in {other.name for other in rest}:
                continue
        return [*rest, before], [*rest, after], f"the {aspect} of the {before.name}"


def _grow(box: Box, canvas: Canvas) -> Box:
    spare = round(0.15 * (box[2] - box[0]))
    left, top = max(1, box[0] - spare), max(1, box[1] - spare)
    side = box[2] - box[0] + 2 * spare
    left, top = min(left, canvas.width - 1 - side), min(top, canvas.height - 1 - side)
    return left, top, left + side, top + side


def _move(thing: Thing, spot: Box) -> Thing:
    # The spot has room for what was to stand there; a larger thing might reach over its neighbour.
    side = min(thing.side, spot[2] - spot[0])
    return replace(thing, box=(spot[0], spot[1], spot[0] + side, spot[1] + side))


def _draw_pair(
    chance: Chance, canvas: Canvas, known: list[str]
) -> tuple[list[_Scene], list[Asking]]:
    """Two scenes that agree or differ in one thing, and what to ask about them."""
    rng = chance.rng
    one, two, change = _change(chance, canvas, known)
    is_same = rng.random() < SAME_SHARE
    scenes = [one, one] if is_same else [one, two]
    askings = [Asking(asked.SAME_WORDINGS, "yes" if is_same else "no", "same")]
    if not is_same or rng.random() < 0.15:
        answer = "nothing" if is_same else change
        askings.append(Asking(asked.DIFFERENCE_WORDINGS, answer, "difference"))
    staying = [thing for thing in one if thing in scenes[1]]
    changed = [thing for thing in one if thing not in scenes[1]]
    # Asked so often that yes and no are about as frequent.
    if changed and len(one) == len(two) and rng.random() < 0.8:
        parts = {"name": changed[0].name}
        askings.append(Asking(asked.THING_WORDINGS, "no", "same thing", parts))
    elif staying and rng.random() < 0.36:
        parts = {"name": rng.choice(staying).name}
        askings.append(Asking(asked.THING_WORDINGS, "yes", "same thing", parts))
    looks = list(_ask_looks(chance, scenes))
    return scenes, askings + rng.sample(looks, min(1, len(looks)))


def _draw_collection(chance: Chance, canvas: Canvas, known: list[str]) -> list[_Scene]:
    """Two or three scenes out of the same few colours and shapes."""
    rng = chance.rng
    is_hard = chance.is_hard()
    num = rng.choice((2, 3)) if is_hard else 2
    colours = rng.sample(known, rng.choice((2, 2, 3)))
    left_out = rng.choice(("square", "rectangle"))  # a square is a rectangle, too
    shapes = rng.sample([name for name in SHAPES if name != left_out], rng.choice((2, 2, 3)))
    scenes: list[_Scene] = []
    for _ in range(num):
        boxes = _place(chance, canvas, rng.randint(1, 5 if is_hard else 2))
        scenes.append([Thing(rng.choice(colours), rng.choice(shapes), box) for box in boxes])
    return scenes


def _name_picture(chance: Chance, index: int) -> str:
    noun = chance.rng.choice(("picture", "image"))
    if chance.rng.random() < 0.3:
        return f"the {ORDINALS[index]} {noun}"
    return f"{noun} {index + 1}"


def _groups(scenes: list[_Scene]) -> dict[str, list[int]]:
    """How many things of a name, in the plural, each scene has."""
    seen = [thing for scene in scenes for thing in scene]
    groups = {"objects": [len(scene) for scene in scenes]}
    for colour in dict.fromkeys(thing.colour for thing in seen):
        groups[f"{colour} objects"] = [
            sum(thing.colour == colour for thing in scene) for scene in scenes
        ]
    for shape in dict.fromkeys(thing.shape for thing in seen):
        groups[plural(shape)] = [sum(thing.shape == shape for thing in scene) for scene in scenes]
    return groups


def _ask_counts(chance: Chance, scenes: list[_Scene]) -> Iterator[Asking]:
    rng = chance.rng
    for name, counts in _groups(scenes).items():
        parts = {"things": name}
        for words, extreme in (
            (("more", "the most"), max(counts)),
            (("fewer", "the fewest"), min(counts)),
        ):
            if counts.count(extreme) == 1:
                more = {**parts, "more": words[0] if len(scenes) == 2 else words[1]}
                answer = str(counts.index(extreme) + 1)
                yield Asking(asked.COMPARE_WORDINGS, answer, "compare counts", more)
        one, two = rng.sample(range(len(scenes)), 2)
        if counts[one] != counts[two]:
            many, few = (one, two) if counts[one] > counts[two] else (two, one)
            both = {"one": _name_picture(chance, many), "two": _name_picture(chance, few)}
            answer = str(counts[many] - counts[few])
            yield Asking(asked.MORE_WORDINGS, answer, "how many more", {**parts, **both})
        at = rng.randrange(len(scenes))
        picture = {"one": _name_picture(chance, at)}
        yield Asking(asked.COUNT_WORDINGS, str(counts[at]), "count", {**parts, **picture})


def _ask_looks(chance: Chance, scenes: list[_Scene]) -> Iterator[Asking]:
    names = {thing.name: None for scene in scenes for thing in scene}
    for name in names:
        if name.replace("rectangle", "square") in names and name.endswith("rectangle"):
            continue  # a square is a rectangle, too
        having = [at for at, scene in enumerate(scenes) if name in {one.name for one in scene}]
        if len(having) == 1:
            answer, parts = str(having[0] + 1), {"name": with_article(name)}
            yield Asking(asked.HAS_WORDINGS, answer, "which has", parts)
    for at, scene in enumerate(scenes):
        picture = {"one": _name_picture(chance, at)}
        for thing in scene:
            if sum(other.shape == thing.shape for other in scene) == 1:
                parts = {**picture, "name": thing.shape}
                yield Asking(asked.COLOUR_WORDINGS, thing.colour, "look", parts)
            if sum(other.colour == thing.colour for other in scene) == 1:
                parts = {**picture, "name": f"{thing.colour} object"}
                yield Asking(asked.SHAPE_WORDINGS, thing.shape, "look", parts)


class Several:
    """Two or three pictures; the answer is the number of a picture, a count, or what differs."""

    name = "several"

    def draw(self, chance: Chance) -> Drawing:
        """Draw a pair that differs in one thing at most, or scenes of the same kinds of things."""
        rng = chance.rng
        canvas = choose_small_canvas(chance, plain=128, largest=150)
        background = choose_background(chance)
        known = colours_on(background)
        if rng.random() < 0.5:
            scenes, askings = _draw_pair(chance, canvas, known)
        else:
            scenes = _draw_collection(chance, canvas, known)
            askings = [*_ask_counts(chance, scenes), *_ask_looks(chance, scenes)]
        turns = ask_some(chance, askings, MAX_TURNS)
        images, marks = draw_scenes(chance, canvas, scenes, background)
        return Drawing(self.name, images, turns, marks, unseen=chance.unseen)

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Right if the answer is the expected number, or the expected words in either spelling."""
        return score_short(turn, answer.lower().replace("color", "colour"))
