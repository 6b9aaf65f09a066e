"""What a checkpoint is asked and answers in every family.

A measurement that is killed goes on behind the last family that it finished, by
:mod:`benchmarks.kept_answers`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.kept_answers import KeptAnswers, fingerprint
from internvl35.evals.drawn import Answered, AskSettings, Pace, Sampled


@dataclass(frozen=True)
class FamilyAnswers:
    """All that was asked about one family."""

    direct: list[Answered]
    """Answers without reasoning."""
    thinking: list[Answered] = field(default_factory=list)
    """Answers in thinking mode, to the questions that come with reasoning."""
    sampled: dict[str, list[Sampled]] = field(default_factory=dict)
    """Several drawn answers a question, by mode: ``direct`` and ``thinking``."""
    pace: Pace = field(default_factory=Pace)
    """How fast the direct answers came."""


@dataclass(frozen=True)
class Measurement:
    """What is measured."""

    model: str
    """Name of the checkpoint, or its folder."""
    families: tuple[str, ...]
    """Which drawn tasks."""
    num_pictures: int = 500
    """Fresh pictures a family."""
    num_sampled: int = 100
    """Pictures a family to which several answers are drawn; 0 for none."""
    num_samples: int = 8
    """Answers drawn to each of them."""
    asking: AskSettings = field(default_factory=AskSettings)
    """Sizes of batches and answers."""

    def fingerprint(self) -> str:
        """Name all that decides on the answers, the families asked about left aside."""
        return fingerprint([self.model], asdict(replace(self, model="", families=())))


def keep_answers(folder: Path, measurement: Measurement) -> KeptAnswers[FamilyAnswers]:
    """Keep the answers of a measurement until it ends.

    Args:
        folder: where the file stands.
        measurement: what is measured; families may be added to it.

    Returns:
        What an earlier run has left.
    """
    path = folder / f"tiny-{measurement.fingerprint()}.partial.json"
    return KeptAnswers(path, asdict, _from_json)


def _from_json(content: dict[str, Any]) -> FamilyAnswers:
    def answers(name: str) -> list[Answered]:
        return [
            Answered(**{**found, "unseen": frozenset(found["unseen"])}) for found in content[name]
        ]

    return FamilyAnswers(
        direct=answers("direct"),
        thinking=answers("thinking"),
        sampled={
            mode: [Sampled(**found) for found in entries]
            for mode, entries in content["sampled"].items()
        },
        pace=Pace(**content["pace"]),
    )
