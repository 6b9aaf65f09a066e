"""What the folder of a part says about the whole checkpoint that it was cut from.

So processes that hold different parts know that these belong together. Cutting is left to
:mod:`internvl35.model.parts`. Paper section 2.3, decoupled vision-language deployment.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

from internvl35.errors import CheckpointError

Part = Literal["vision", "language"]
"""The folder of a half."""

WHOLE_FILE = "whole.json"
"""Stands in the folder of a part."""

_SMALL_FILES = (
    "config.json", "tokenizer*", "vocab*", "merges*", "special_tokens_map.json", "added_tokens*",
)  # fmt: skip
"""Files that are looked at as a whole."""

_SAMPLES, _SAMPLE_BYTES = 4, 64 * 1024
"""Pieces of each file of weights that are looked at, and their size."""


@dataclass(frozen=True)
class Whole:
    """A checkpoint of which a folder holds a part."""

    part: Part
    """Which part."""
    content: str
    """What :func:`digest_content` made of the whole."""
    config: dict[str, Any]
    """Its config.json, in layout ``hf``."""

    def as_text(self) -> str:
        """Write it down for :func:`read_whole`."""
        return json.dumps(asdict(self), indent=2) + "\n"


def read_whole(folder: Path) -> Whole | None:
    """Read what a folder is a part of.

    Args:
        folder: of a part, or of a whole checkpoint.

    Returns:
        The whole; None if the folder holds one itself.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    path = folder / WHOLE_FILE
    try:
        return Whole(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); split the checkpoint anew") from (
            error
        )


def digest_content(folder: Path, weight_files: Iterable[str]) -> str:
    """Tell checkpoints apart without reading all weights.

    Args:
        folder: of a whole checkpoint.
        weight_files: names of its files of weights.

    Returns:
        Equal for equal config, tokenizer, and sizes and samples of the files of weights.
    """
    found = blake2b(digest_size=32)
    for pattern in _SMALL_FILES:
        for path in sorted(path for path in folder.glob(pattern) if path.is_file()):
            found.update(blake2b(path.read_bytes()).digest())
    for name in sorted(weight_files):
        for piece in (name.encode(), *_sample(folder / name)):
            found.update(blake2b(piece).digest())
    return found.hexdigest()


def _sample(path: Path) -> Iterator[bytes]:
    """Read the size of a file and a few pieces of it, its beginning and end among them."""
    size = path.stat().st_size
    yield str(size).encode()
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * number // (_SAMPLES - 1))
            yield file.read(_SAMPLE_BYTES)
