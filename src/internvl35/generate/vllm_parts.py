"""The two parts of a checkpoint as vLLM needs them: made once, and found again.

Splitting itself is left to :mod:`internvl35.model.parts`. Paper section 2.3, decoupled
vision-language deployment.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from internvl35.errors import CheckpointError
from internvl35.model.hub import resolve_checkpoint
from internvl35.model.parts import split_checkpoint

_PARTS = ("vision", "language")
_SOURCE = "source.json"
"""Says in a folder of parts what they were made of."""
_LOCK = ".lock"
"""Held by who makes parts."""


def split_once(
    checkpoint: str | PathLike[str], target: str | PathLike[str] | None, resources: ExitStack
) -> Path:
    """Find or make the parts of a checkpoint.

    Args:
        checkpoint: ``tiny``, ``tiny-flash``, a size, a hub id or a folder; or a folder that holds
            both parts.
        target: where the parts are kept; None for a temporary folder.
        resources: removes the temporary folder when it is closed.

    Returns:
        A folder with the folders ``vision`` and ``language``.

    Raises:
        CheckpointError: if the checkpoint cannot be found or split, or the target holds parts of
            something else.
    """
    if _has_parts(Path(checkpoint)):
        return Path(checkpoint)
    source = resolve_checkpoint(checkpoint)
    if target is None:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory(prefix="internvl35-")))
        split_checkpoint(source, folder)
        return folder
    folder = Path(target)
    needed = _describe(source)
    if _has_parts(folder) and _read_source(folder) == needed:  # which nobody is writing any more
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several servers of a machine may start at once
        _split_into(folder, source, needed)
    return folder


def _split_into(folder: Path, source: Path, needed: dict[str, list[int]]) -> None:
    found = _read_source(folder)
    if found is None and any((folder / part / "config.json").exists() for part in _PARTS):
        raise CheckpointError(
            f"{folder} holds parts of which nobody knows what they were made of; pass it as the "
            "checkpoint if they are the right ones, or name another folder"
        )
    if found not in (None, needed):
        raise CheckpointError(
            f"{folder} holds parts of another checkpoint, or of {source} as it was before; name "
            "another folder or remove this one"
        )
    if found is None or not _has_parts(folder):
        (folder / _SOURCE).write_text(json.dumps(needed, indent=2) + "\n", encoding="utf-8")
        split_checkpoint(source, folder)


def _has_parts(folder: Path) -> bool:
    return all((folder / part / "config.json").is_file() for part in _PARTS)


def _describe(source: Path) -> dict[str, list[int]]:
    """Sizes and times of the files of a checkpoint; a change of any makes it another one."""
    stats = {path.name: path.stat() for path in sorted(source.iterdir()) if path.is_file()}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}


def _read_source(folder: Path) -> object:
    path = folder / _SOURCE
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}); remove {folder}") from error
