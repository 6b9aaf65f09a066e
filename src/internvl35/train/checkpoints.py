"""The checkpoints of a run: each is whole or absent, and is kept as long as it is wanted.

What a checkpoint holds is left to whoever writes it; this file knows names, order and age.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from internvl35.errors import CheckpointError, DataError
from internvl35.model.flushing import flush

STATE_NAME = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_PARTIAL = ".partial-"


def _step_of(folder: Path) -> int | None:
    """The step after which a checkpoint was written; None for any other folder."""
    found = _NAME.fullmatch(folder.name)
    return int(found[1]) if found else None


def list_checkpoints(run_folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    found = [
        path
        for path in run_folder.glob("checkpoint-*")
        if _step_of(path) is not None and (path / STATE_NAME).is_file()
    ]
    return sorted(found, key=lambda path: _step_of(path) or 0)


def find_checkpoint(place: Path) -> Path:
    """Find the checkpoint to go on from.

    Args:
        place: a checkpoint, or a run folder, of which the last checkpoint is taken.

    Returns:
        The checkpoint.

    Raises:
        DataError: if there is none.
    """
    if (place / STATE_NAME).is_file():
        return place
    if not place.is_dir():
        raise DataError(f"{place} is not a folder; pass a checkpoint-N folder or its run folder")
    found = list_checkpoints(place)
    if not found:
        raise DataError(
            f"{place} holds no checkpoint to resume from; pass a checkpoint-N folder, or start anew"
        )
    return found[-1]


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read a checkpoint's ``trainer_state.json``.

    Args:
        checkpoint: the folder.

    Returns:
        ``global_step``, ``epoch``, ``best_metric``, ``best_model_checkpoint`` and so on.

    Raises:
        DataError: if it cannot be read.
    """
    path = checkpoint / STATE_NAME
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}; use another checkpoint") from error
    if not isinstance(state, dict):
        raise DataError(f"{path} holds a {type(state).__name__}; use another checkpoint")
    return state


def partial_folder(run_folder: Path, step: int) -> Path:
    """Where a checkpoint stands while it is written."""
    return run_folder / f"{_PARTIAL}checkpoint-{step}"


def write_checkpoint(
    run_folder: Path, step: int, write: Callable[[Path], None], state: dict[str, Any]
) -> Path:
    """Write a checkpoint that appears as a whole or not at all.

    Args:
        run_folder: of the run.
        step: steps done.
        write: fills the folder that it is given.
        state: written last, as ``trainer_state.json``.

    Returns:
        The checkpoint's folder.

    Raises:
        DataError: if the disk does not take it; earlier checkpoints are untouched.
    """
    target = run_folder / f"checkpoint-{step}"
    partial = partial_folder(run_folder, step)
    try:
        _clear_left_overs(run_folder)
        partial.mkdir(parents=True)
        write(partial)
        text = json.dumps(state, indent=2, ensure_ascii=False) + "\n"
        (partial / STATE_NAME).write_text(text, encoding="utf-8")
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        if target.exists():  # of the same step, before the run was resumed from an earlier one
            _remove(target)
        partial.replace(target)
        flush(run_folder)
    except (OSError, SafetensorError, CheckpointError) as error:
        is_told = isinstance(error, CheckpointError) and error.__cause__ is not None
        reason = error.__cause__ if is_told else error  # what to do is said here
        raise DataError(
            f"checkpoint {step} cannot be written to {run_folder}: {reason}; free space or choose "
            "another output_dir; checkpoints that were written before are whole"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)  # it is there only if something failed
    return target


def _remove(checkpoint: Path) -> None:
    """Take a name away before any file goes: a kill must not leave half a checkpoint."""
    gone = checkpoint.with_name(f"{_PARTIAL}old-{checkpoint.name}")
    checkpoint.replace(gone)
    shutil.rmtree(gone, ignore_errors=True)


def set_aside_later(run_folder: Path, step: int) -> list[str]:
    """Rename checkpoints of steps that a run takes once more, since it was resumed before them.

    Otherwise they would count as the newest ones, though the run no longer comes from them.

    Args:
        run_folder: of the run.
        step: the step that it is resumed from.

    Returns:
        Names that they had; ``undone-`` now stands in front of them.

    Raises:
        DataError: if they cannot be renamed.
    """
    names = []
    for path in list_checkpoints(run_folder):
        if (_step_of(path) or 0) > step:
            undone = path.with_name(f"undone-{path.name}")
            try:
                shutil.rmtree(undone, ignore_errors=True)
                path.replace(undone)
            except OSError as error:
                raise DataError(f"{path} cannot be renamed: {error}; move it away") from error
            names.append(path.name)
    return names


def remove_old(run_folder: Path, limit: int | None, best: Path | None) -> None:
    """Remove checkpoints that are no longer wanted.

    Args:
        run_folder: of the run.
        limit: how many stay: the best and the newest ones; None for all.
        best: the best checkpoint so far, if known.
    """
    if limit is None:
        return
    kept = list_checkpoints(run_folder)
    old = [path for path in kept if best is None or path.name != best.name]
    num_others = max(1, limit - (len(kept) - len(old)))
    for path in old[: max(0, len(old) - num_others)]:
        _remove(path)


def _clear_left_overs(run_folder: Path) -> None:
    for path in run_folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path)
