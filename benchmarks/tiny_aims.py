"""What the embedded checkpoint is meant to reach, and whether a measurement has reached it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Aim:
    """A figure that a family is meant to reach."""

    family: str
    """Its name."""
    value: float
    """Least value that is good enough, 0 to 1."""
    figure: str = "right"
    """Which of its figures."""
    kind: str | None = None
    """Beginning of the names of the kinds of question it counts for; None for all."""
    unseen: str | None = None
    """Part kept for the test that must be in the picture; None for all pictures."""
    mode: Literal["direct", "thinking", "either"] = "direct"
    """Whether the model may reason first; ``either`` takes the better of both."""

    def __str__(self) -> str:
        """Name what is meant."""
        parts = [self.family, self.kind, self.unseen and f"unseen {self.unseen}"]
        parts += [None if self.mode == "direct" else f"({self.mode})", self.figure]
        return " ".join(part for part in parts if part)


AIMS: tuple[Aim, ...] = (
    Aim("counting", 0.95),
    Aim("shapes", 0.95),
    Aim("relations", 0.95),
    Aim("several", 0.95),
    Aim("rooms", 0.95),
    Aim("reading", 0.90),
    Aim("reading", 0.80, unseen="font"),
    Aim("lines", 0.80, figure="characters"),
    Aim("bars", 0.85),
    Aim("curves", 0.85),
    Aim("pies", 0.85),
    Aim("screens", 0.85, kind="point"),
    Aim("svg", 0.80),
    Aim("svg", 0.95, figure="valid"),
    Aim("motion", 0.90),
    Aim("sums", 0.80, mode="either"),
    Aim("formulas", 0.80),
    Aim("honesty", 0.80),
)
"""Every aim, on fresh pictures of the test."""


@dataclass(frozen=True)
class Verdict:
    """An aim and what was measured."""

    aim: Aim
    """What was wanted."""
    value: float | None
    """What was found; None if it was not measured."""

    @property
    def is_reached(self) -> bool:
        """Whether it is good enough."""
        return self.value is not None and self.value >= self.aim.value


def judge(families: dict[str, Any], aims: tuple[Aim, ...] = AIMS) -> list[Verdict]:
    """Compare figures with the aims.

    Args:
        families: figures of each family, as ``results/tiny.json`` has them.
        aims: what is wanted.

    Returns:
        A verdict an aim.
    """
    return [Verdict(aim, _find(families, aim)) for aim in aims]


def _find(families: dict[str, Any], aim: Aim) -> float | None:
    modes = ("direct", "thinking") if aim.mode == "either" else (aim.mode,)
    measured = families.get(aim.family, {})
    found = [_find_in(measured[mode], aim) for mode in modes if mode in measured]
    return max((value for value in found if value is not None), default=None)


def _find_in(figures: dict[str, Any], aim: Aim) -> float | None:
    if aim.unseen is not None:
        split = figures["unseen"].get(aim.unseen, {})
        parts = [{"right": split["unseen"]}] if "unseen" in split else []
    elif aim.kind is not None:
        parts = [part for kind, part in figures["kinds"].items() if kind.startswith(aim.kind)]
    else:
        parts = [figures["figures"]]
    held = [part[aim.figure] for part in parts if aim.figure in part]
    num = sum(part["n"] for part in held)
    return sum(part["value"] * part["n"] for part in held) / num if num else None
