"""Answers that a measurement keeps in a file while it runs: a kill costs one family at most.

What is asked stands in :mod:`benchmarks.tiny_answers` and :mod:`benchmarks.flash_answers`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from benchmarks.record import describe_versions
from internvl35 import scoring
from internvl35.data import synthetic
from internvl35.model.hub import resolve_checkpoint

T = TypeVar("T")

WEIGHT_FILES = ("*.safetensors", "config.json", "tokenizer.json")
"""What decides on the answers of a checkpoint."""


class KeptAnswers(Generic[T]):
    """Answers of families that are done.

    Args:
        path: of the file.
        as_json: makes what JSON can hold of a family's answers; sets become sorted lists.
        from_json: makes answers of that.
    """

    def __init__(
        self, path: Path, as_json: Callable[[T], Any], from_json: Callable[[Any], T]
    ) -> None:
        """Read what an earlier run has left, if it left anything."""
        self.path = path
        self._as_json = as_json
        self.done: dict[str, T] = {}
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            self.done = {family: from_json(found) for family, found in content.items()}

    def keep(self, family: str, answers: T) -> None:
        """Write a family down; a kill meanwhile leaves the old file as it was.

        Args:
            family: its name.
            answers: everything it was asked.
        """
        self.done[family] = answers
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = {name: self._as_json(found) for name, found in self.done.items()}
        new = self.path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(content, default=sorted, ensure_ascii=False), encoding="utf-8")
        new.replace(self.path)

    def remove(self) -> None:
        """Forget everything: the measurement has ended."""
        self.path.unlink(missing_ok=True)


def fingerprint(models: Sequence[str], settings: Any) -> str:
    """Name all that decides on answers, so that those of another measurement are not taken.

    Args:
        models: names or folders of the checkpoints that answer.
        settings: all else that decides, as JSON can hold it.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256("/".join(map(hash_weights, models)).encode())
    room = Path(synthetic.__file__).parent
    for path in (*sorted(room.rglob("*.py")), Path(scoring.__file__)):
        digest.update(path.read_bytes())
    digest.update(json.dumps([settings, describe_versions()], default=str).encode())
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
