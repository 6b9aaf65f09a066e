"""The folder of a run: its name, ``args.json``, ``logging.jsonl`` and links to checkpoints.

Checkpoints themselves are left to :mod:`internvl35.train.checkpoints`, the figures that are logged
to :mod:`internvl35.train.reports`.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from internvl35.errors import ConfigError, DataError
from internvl35.train.arguments import build_settings, flatten_settings
from internvl35.train.settings import FinetuneSettings

ARGUMENTS_FILE = "args.json"
LOG_FILE = "logging.jsonl"
ADAPTER_FILE = "adapter_config.json"
"""Tells a folder of adapters from one of weights."""

VAL_FILE = "val_dataset.jsonl"
"""Validation rows that a run set aside."""

EVENTS_FOLDER = "runs"
IMAGES_FOLDER = "images"
STEP_KEY = "global_step/max_steps"
"""Key of a line's position, as in ``5/1237``."""

FACTS = ("internvl35_version", "command", "world_size", "resolved")
"""Keys of ``args.json`` that are no settings."""

_VERSIONED = re.compile(r"v(\d+)-\d{8}-\d{6}")


def make_run_folder(output_dir: Path, add_version: bool, now: datetime | None = None) -> Path:
    """Make the folder of a new run.

    Args:
        output_dir: made if missing.
        add_version: whether the run gets a folder of its own in there, with the next number; no
            two runs get the same one, not even when they begin at the same moment.
        now: time in the folder's name; the present where None.

    Returns:
        The folder.

    Raises:
        ConfigError: if ``output_dir`` itself is asked for and holds a run already.
        DataError: if nothing can be written there.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        if add_version:
            return _make_versioned(output_dir, now or datetime.now())
    except OSError as error:
        raise DataError(
            f"no run folder can be made in {output_dir}: {error}; choose another output_dir"
        ) from error
    if any(output_dir.glob("checkpoint-*")):
        raise ConfigError(
            f"{output_dir} holds a run already; go on with it by resume_from_checkpoint "
            f"{output_dir}, or choose another output_dir or add_version true"
        )
    if (output_dir / LOG_FILE).exists():
        raise ConfigError(
            f"{output_dir} holds the log of a run without a checkpoint; remove {LOG_FILE}, or "
            "choose another output_dir or add_version true"
        )
    return output_dir


def _make_versioned(output_dir: Path, now: datetime) -> Path:
    """Claim a number by a file that only one process can make, then look again and use it."""
    number = max(_numbers(output_dir), default=-1) + 1
    while True:
        claim = output_dir / f".v{number}"
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            number += 1
            continue
        try:
            if number not in _numbers(output_dir):
                folder = output_dir / f"v{number}-{now:%Y%m%d-%H%M%S}"
                folder.mkdir()
                return folder
        finally:
            claim.unlink(missing_ok=True)
        number += 1


def _numbers(output_dir: Path) -> set[int]:
    found = (_VERSIONED.fullmatch(path.name) for path in output_dir.iterdir())
    return {int(match[1]) for match in found if match}


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves behind beside its checkpoints."""

    path: Path
    """The folder."""

    @property
    def log_file(self) -> Path:
        """Figures, one object a line."""
        return self.path / LOG_FILE

    @property
    def events(self) -> Path:
        """Folder of TensorBoard's files."""
        return self.path / EVENTS_FOLDER

    @property
    def images(self) -> Path:
        """Folder of the curves."""
        return self.path / IMAGES_FOLDER

    def write_arguments(self, settings: FinetuneSettings, facts: Mapping[str, Any]) -> None:
        """Write ``args.json``.

        Args:
            settings: of the run.
            facts: see :func:`collect_arguments`.

        Raises:
            DataError: if nothing can be written there.
        """
        write_json(self.path / ARGUMENTS_FILE, collect_arguments(settings, facts))

    def link_checkpoint(self, name: str, checkpoint: Path) -> None:
        """Let a link lead to a checkpoint; an old link is replaced in one step.

        Args:
            name: of the link: best or last.
            checkpoint: a folder in this one.

        Raises:
            DataError: if a file or folder has that name, or links cannot be made there.
        """
        link, partial = self.path / name, self.path / f".{name}.partial"
        try:
            partial.unlink(missing_ok=True)
            partial.symlink_to(checkpoint.name, target_is_directory=True)
            os.replace(partial, link)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(
                f"{link} cannot be made a link to {checkpoint.name}: {error}; set "
                "create_checkpoint_symlink to false"
            ) from error


def collect_arguments(settings: FinetuneSettings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Put together what ``args.json`` holds.

    Args:
        settings: of the run; secrets become None.
        facts: ``internvl35_version``, ``command``, ``world_size``, and under ``resolved`` what
            followed from settings that were left open.

    Returns:
        Flag name to value, then the facts; ready for JSON.
    """
    unknown = sorted(set(facts) - set(FACTS))
    assert not unknown, f"no facts of a run: {unknown}"
    return flatten_settings(settings) | dict(facts)


def read_arguments(folder: Path) -> dict[str, Any]:
    """Read ``args.json`` of a checkpoint, or of the run folder that it is in.

    Args:
        folder: a checkpoint or a run folder.

    Returns:
        Flag name to value, and the facts.

    Raises:
        DataError: if there is none, or it cannot be read.
    """
    places = (folder / ARGUMENTS_FILE, folder.resolve().parent / ARGUMENTS_FILE)
    path = next((place for place in places if place.is_file()), places[0])
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read: {error}; pass a checkpoint folder of internvl35 sft"
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}; needed: one object")
    return content


def read_settings(folder: Path, base: FinetuneSettings | None = None) -> FinetuneSettings:
    """Read the settings that a run was made with.

    Args:
        folder: a checkpoint or a run folder.
        base: settings of the kind that is wanted, with values for what is not in the file; those of
            ``sft`` where None.

    Returns:
        The settings; secrets are missing.

    Raises:
        DataError: if ``args.json`` is missing or broken.
        ConfigError: if it holds a setting that there is not, or a value out of range.
    """
    values = read_arguments(folder)
    return build_settings(
        {name: value for name, value in values.items() if name not in FACTS}, base
    )


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that is whole or as it was before.

    Args:
        path: of the file.
        content: plain values.

    Raises:
        DataError: if it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        text = json.dumps(content, indent=2, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error}; free space or move") from error


class LogFile:
    """``logging.jsonl``: one object a line, each written at once.

    Args:
        path: of the file; made if missing.
        last_step: lines of later steps are dropped, with a line that a kill cut short and the
            summary of a run that goes on.

    Raises:
        DataError: if the file cannot be written.
    """

    def __init__(self, path: Path, last_step: int = 0) -> None:
        """Drop what a kill undid."""
        self.path = path
        self.lines = [] if last_step == 0 else read_log(path, last_step)
        partial = path.with_name(f".{path.name}.partial")
        try:
            partial.write_text("".join(_as_line(line) for line in self.lines), encoding="utf-8")
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise DataError(f"{path} cannot be written: {error}; free space or move") from error

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line.

        Args:
            line: plain values; numbers that JSON does not know become null.

        Raises:
            DataError: if the disk does not take it.
        """
        plain = {name: _finite(value) for name, value in line.items()}
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_as_line(plain))
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error}; free space, then resume from the last "
                "checkpoint"
            ) from error
        if step_of(plain) is not None:
            self.lines.append(plain)


def read_log(path: Path, last_step: int | None = None) -> list[dict[str, Any]]:
    """Read the lines of a run that have a step.

    Args:
        path: ``logging.jsonl``; none if it is missing.
        last_step: lines of later steps are left out.

    Returns:
        The lines in order, without the summary and without a line that a kill cut short.
    """
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        step = step_of(line) if isinstance(line, dict) else None
        if step is not None and (last_step is None or step <= last_step):
            lines.append(line)
    return lines


def step_of(line: Mapping[str, Any]) -> int | None:
    """The step of a line; None for the summary and whatever else has none."""
    step, _, total = str(line.get(STEP_KEY, "")).partition("/")
    return int(step) if step.isdecimal() and total.isdecimal() else None


def _as_line(line: Mapping[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
