"""Words for where one of several elements stands, if they fit no other one.

No counterpart in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from internvl35.data.grounding import middle_of
from internvl35.data.synthetic.drawing import Box

CLEAR = 0.07
"""Parts of the side by which something must lie beyond the others to be "the leftmost"."""

_BACK = 0.02
"""Parts of the side by which another may lie beyond what is named after a corner."""

_SIDES = (
    (0, -1, ("leftmost {}", "{} at the left", "{} furthest to the left")),
    (0, 1, ("rightmost {}", "{} at the right", "{} furthest to the right")),
    (1, -1, ("topmost {}", "{} at the top", "highest {}")),
    (1, 1, ("lowest {}", "{} at the bottom", "bottom {}")),
)


def tell_apart(rng: random.Random, boxes: Sequence[Box], noun: str) -> list[tuple[int, str]]:
    """Name those of a group that their place alone tells from the others.

    Args:
        rng: chooses among words that mean the same.
        boxes: the group, as shares of the picture.
        noun: what each of them is.

    Returns:
        Indices into ``boxes``, each with words such as "button at the top right"; one may be named
        in several ways.
    """
    if len(boxes) < 2:
        return [(place, rng.choice((f"only {noun}", noun))) for place in range(len(boxes))]
    middles = [middle_of(box) for box in boxes]
    named: list[tuple[int, str]] = []
    for axis, sign, words in _SIDES:
        ahead = sorted(((sign * middle[axis], place) for place, middle in enumerate(middles)))
        (second, _), (first, place) = ahead[-2:]
        if first - second > CLEAR:
            named.append((place, rng.choice(words).format(noun)))
    if all(max(side) - min(side) > CLEAR for side in zip(*middles, strict=True)):
        # Corners would tell nothing of elements in one line.
        for sign_y, side_y in ((-1, "top"), (1, "bottom")):
            for sign_x, side_x in ((-1, "left"), (1, "right")):
                corner = _find_corner(middles, sign_x, sign_y)
                if corner is not None:
                    named.append((corner, f"{noun} at the {side_y} {side_x}"))
    return named


def _find_corner(middles: Sequence[tuple[float, float]], sign_x: int, sign_y: int) -> int | None:
    for place, (x, y) in enumerate(middles):
        leads = [
            (sign_x * (x - other_x), sign_y * (y - other_y))
            for other, (other_x, other_y) in enumerate(middles)
            if other != place
        ]
        if all(min(lead) > -_BACK and max(lead) > CLEAR for lead in leads):
            return place
    return None
