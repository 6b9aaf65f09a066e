"""Questions that a picture allows, and which of them are asked.

Wordings and answers are left to the families. No counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from internvl35.data.synthetic.drawing import Chance, Pool, Turn


@dataclass(frozen=True)
class Asking:
    """A question that could be asked, not yet in words."""

    asked: Pool[str]
    """Its wordings."""
    answer: str
    """The right answer."""
    kind: str
    """See ``Turn.kind``."""
    parts: dict[str, str] = field(default_factory=dict)
    """What stands for the ``{names}`` of the wordings."""


def ask_some(chance: Chance, askings: Sequence[Asking], most: int) -> tuple[Turn, ...]:
    """Ask some of the questions, of as many kinds as there are, in random order.

    Args:
        chance: of choice and wording.
        askings: all that the picture allows.
        most: questions to ask at most.

    Returns:
        Turns, none of them twice.
    """
    rng = chance.rng
    kinds: dict[str, list[Asking]] = {}
    for asking in rng.sample(list(askings), len(askings)):
        kinds.setdefault(asking.kind, []).append(asking)
    chosen: list[Asking] = []
    while kinds and len(chosen) < most:
        for kind in rng.sample(list(kinds), len(kinds)):
            chosen.append(kinds[kind].pop())
            if not kinds[kind]:
                del kinds[kind]
    turns = [chance.turn(one.asked, one.answer, one.kind, parts=one.parts) for one in chosen[:most]]
    rng.shuffle(turns)
    return tuple(turns)
