"""What a drawn task is: pictures, questions, answers, what stands where, and how answers count.

Families of tasks stand in files of their own and meet the rest of the package here alone. They
have no counterpart in the paper.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from PIL import Image

from internvl35.data.synthetic.labels import Mark

Item = TypeVar("Item")

Split = Literal["train", "validation", "test"]
"""Streams of drawings; no two share a seed."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom; right and bottom are exclusive."""

KEPT_SHARE = 0.5
"""How often a test takes from the part of a pool that is kept for it."""

MOST_NUMBERS = 1_000_000
"""Numbers of chance that one drawing may use; the longest of 18,100 drawings used 23,204."""


@dataclass(frozen=True)
class Pool(Generic[Item]):
    """Things of one kind to choose from, some of which are kept for the test."""

    name: str
    """What they are: ``wording``, ``font``, ``icon`` and the like."""
    seen: tuple[Item, ...]
    """Those that training may use."""
    kept: tuple[Item, ...]
    """Those that only the test uses."""

    @classmethod
    def split(cls, name: str, items: Sequence[Item]) -> Pool[Item]:
        """Keep every fourth item for the test.

        Args:
            name: what they are.
            items: at least four, in a fixed order.
        """
        seen = tuple(item for index, item in enumerate(items) if index % 4 != 3)
        return cls(name, seen, tuple(items[3::4]))


def wordings(*texts: str) -> Pool[str]:
    """Ways to ask for one thing; every fourth is kept for the test.

    Args:
        texts: at least eight, with ``{names}`` for what changes; a native speaker would say each.
    """
    return Pool.split("wording", texts)


@dataclass(frozen=True)
class Turn:
    """A question and its answer."""

    question: str
    """What is asked, without any mark for the pictures."""
    answer: str
    """The right answer, as a model should write it."""
    kind: str
    """What is asked for; figures are kept apart by it."""
    reasoning: str = ""
    """Steps that lead to the answer, for a model that thinks first; empty where there are none."""
    box: Box | None = None
    """Where the answer points, as shares of the picture; None where it does not point."""
    is_unseen: bool = False
    """Whether the wording is one that training never uses."""


@dataclass(frozen=True)
class Drawing:
    """Pictures with what is asked about them."""

    family: str
    """Name of the family that drew it."""
    images: tuple[Image.Image, ...]
    """RGB pictures, or the frames of a video in order; empty for pure text."""
    turns: tuple[Turn, ...]
    """One to six questions in any order; evaluation asks the first."""
    marks: tuple[tuple[Mark, ...], ...] = ()
    """What stands where in each picture; empty where nothing is marked."""
    is_video: bool = False
    """Whether the pictures are frames of a video."""
    unseen: frozenset[str] = field(default_factory=frozenset[str])
    """Names of the pools of which it shows something that training never uses."""


class Numbers(random.Random):
    """The numbers of chance of one drawing, of which there is an end.

    A family tries until something fits. Each attempt takes numbers, so that a drawing for which
    nothing ever fits ends here instead of running on; the numbers are those of ``random.Random``.

    Args:
        seed: says which drawing it is.
    """

    def __init__(self, seed: str) -> None:
        """Begin the stream of a seed."""
        super().__init__(seed)
        self._seed, self._left = seed, MOST_NUMBERS

    def random(self) -> float:
        """Return the next number from 0 to 1."""
        self._take()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        """Return the next whole number.

        Args:
            k: its bits.
        """
        self._take()
        return super().getrandbits(k)

    def _take(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RuntimeError(
                f"the drawing {self._seed!r} is not done after {MOST_NUMBERS:,} numbers of chance; "
                "a loop of its family finds nothing that fits and has to try something else"
            )


class Chance:
    """The chances of one drawing: a stream of numbers, how hard it may get, what is allowed.

    Args:
        rng: the only source of chance.
        level: 0 for the easiest drawings to 1 for those of the test.
        is_test: whether the kept parts of pools may be used.
    """

    def __init__(self, rng: random.Random, level: float = 1.0, *, is_test: bool = False) -> None:
        """Begin a drawing."""
        self.rng = rng
        self.level = level
        self.is_test = is_test
        self._unseen: set[str] = set()

    @property
    def unseen(self) -> frozenset[str]:
        """Names of the pools whose kept part was used in the pictures, for ``Drawing.unseen``."""
        return frozenset(self._unseen)

    def is_hard(self) -> bool:
        """Whether one aspect comes from the test's distribution; always so at level 1."""
        return self.rng.random() < self.level

    def begin_again(self) -> Chance:
        """Go on at this place of the stream as if nothing had been picked, for another attempt."""
        return Chance(self.rng, self.level, is_test=self.is_test)

    def pick(self, pool: Pool[Item]) -> Item:
        """Choose something that is drawn; a kept item is remembered.

        Args:
            pool: what to choose from.
        """
        if self._takes_kept(pool):
            self._unseen.add(pool.name)
            return self.rng.choice(pool.kept)
        return self.rng.choice(pool.seen)

    def turn(
        self,
        asked: Pool[str],
        answer: str,
        kind: str,
        *,
        parts: Mapping[str, object] | None = None,
        reasoning: str = "",
        box: Box | None = None,
    ) -> Turn:
        """Ask for something in one of many wordings.

        Args:
            asked: the wordings.
            answer: the right answer.
            kind: see ``Turn.kind``.
            parts: what stands for the ``{names}`` of the wordings.
            reasoning: see ``Turn.reasoning``.
            box: see ``Turn.box``.
        """
        is_unseen = self._takes_kept(asked)
        wording = self.rng.choice(asked.kept if is_unseen else asked.seen)
        question = wording.format(**(parts or {}))
        return Turn(question, answer, kind, reasoning, box, is_unseen)

    def _takes_kept(self, pool: Pool[Item]) -> bool:
        return self.is_test and bool(pool.kept) and self.rng.random() < KEPT_SHARE


class Family(Protocol):
    """A kind of task."""

    name: str
    """Key of the family in ``FAMILIES``."""

    def draw(self, chance: Chance) -> Drawing:
        """Draw pictures and ask about them; all chance comes from ``chance``."""

    def score(self, turn: Turn, answer: str) -> dict[str, float]:
        """Score an answer, whatever text it is.

        Args:
            turn: what was asked.
            answer: what a model said, without its reasoning.

        Returns:
            ``right``, 1 or 0, and where there is more to say other figures from 0 to 1.
        """
