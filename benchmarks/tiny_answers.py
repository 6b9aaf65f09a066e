"""What a checkpoint answered in every family, and the file that keeps it while a measurement runs.

A measurement that is killed goes on behind the last family that it finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.record import describe_versions
from internvl35 import scoring
from internvl35.data import synthetic
from internvl35.evals.drawn import Answered, AskSettings, Pace, Sampled
from internvl35.model.hub import resolve_checkpoint

WEIGHT_FILES = ("*.safetensors", "config.json", "tokenizer.json")
"""What decides on the answers of a checkpoint."""


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
        digest = hashlib.sha256(hash_weights(self.model).encode())
        room = Path(synthetic.__file__).parent
        for path in (*sorted(room.rglob("*.py")), Path(scoring.__file__)):
            digest.update(path.read_bytes())
        settings = asdict(replace(self, model="", families=()))
        digest.update(json.dumps([settings, describe_versions()]).encode())
        return digest.hexdigest()[:16]


def hash_weights(model: str) -> str:
    """Tell a checkpoint from any other.

    Args:
        model: name of the checkpoint, or its folder.

    Returns:
        The first 16 hexadecimal digits of the SHA-256 of its weights, config and tokenizer.
    """
    folder = resolve_checkpoint(model)
    digest = hashlib.sha256()
    for pattern in WEIGHT_FILES:
        for path in sorted(folder.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class PartialAnswers:
    """Families that are done, kept in a file until the measurement ends.

    Args:
        folder: where the file stands.
        fingerprint: of the measurement; answers of another one are not found.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Read what an earlier run has left, if it left anything."""
        self.path = folder / f"tiny-{fingerprint}.partial.json"
        self.done: dict[str, FamilyAnswers] = {}
        if self.path.exists():
            content = json.loads(self.path.read_text(encoding="utf-8"))
            self.done = {name: _from_json(found) for name, found in content.items()}

    def keep(self, family: str, answers: FamilyAnswers) -> None:
        """Write a family down; a kill meanwhile leaves the old file as it was.

        Args:
            family: its name.
            answers: everything it was asked.
        """
        self.done[family] = answers
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: asdict(found) for name, found in self.done.items()}
        new = self.path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(content, default=sorted, ensure_ascii=False), encoding="utf-8")
        new.replace(self.path)

    def remove(self) -> None:
        """Forget everything: the measurement has ended."""
        self.path.unlink(missing_ok=True)


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
