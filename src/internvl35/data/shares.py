"""From the name of a data set to its rows: a file, a list of sets, a folder, or a hub's set.

What the rows of one name are mixed with is left to :mod:`internvl35.data.mixture`. No counterpart
in the paper.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from internvl35.data.arrow_tables import load_folder, open_parquet, open_saved
from internvl35.data.dataset_names import DatasetName
from internvl35.data.hub_tables import HubAccess, open_hub_tables
from internvl35.data.meta import META_FILE, Share, is_meta_file, open_meta
from internvl35.data.records import DEFAULTS, RowDefaults
from internvl35.data.tables import open_file
from internvl35.errors import DataError

_LOGGER = logging.getLogger(__name__)

_ROW_FILES = (".jsonl", ".json", ".csv", ".tsv")
"""Endings of files that a folder is read by, the first one found."""

_NOT_ROWS = re.compile(r"(dataset_infos?|state|config\w*|package(-lock)?|meta)\.json")
_FOR_TRAINING = re.compile(r"(?:.*[^a-z])?train(?:[^a-z].*)?", re.IGNORECASE)
_FOR_TESTS = re.compile(
    r"(?:.*[^a-z])?(?:val|valid|validation|dev|eval|test|testing)(?:[^a-z].*)?", re.IGNORECASE
)


def open_shares(
    name: DatasetName,
    access: HubAccess,
    *,
    root: Path | None = None,
    defaults: RowDefaults = DEFAULTS,
) -> list[Share]:
    """Open what a name stands for.

    Args:
        name: of the data set.
        access: how hubs are asked.
        root: folder that relative paths in local rows start from; by default that of their file.
        defaults: what holds for all rows.

    Returns:
        Tables with rows, and how often each is used.

    Raises:
        DataError: if it cannot be read or fetched.
        ConfigError: if a package is missing.
    """
    if not name.is_local:
        tables = open_hub_tables(name, access, defaults)
        return [Share(table) for table in tables]
    path = Path(name.place)
    if path.is_dir():
        return _open_folder(path, name.subsets, root, defaults)
    return _open_file(path, root, defaults)


def _open_file(path: Path, root: Path | None, defaults: RowDefaults) -> list[Share]:
    if is_meta_file(path):
        return open_meta(path, root=root, defaults=defaults)
    if path.suffix.lower() == ".parquet":
        return [Share(open_parquet(path, root=root, defaults=defaults))]
    return [Share(open_file(path, root=root, defaults=defaults))]


def _open_folder(
    folder: Path, subsets: Sequence[str], root: Path | None, defaults: RowDefaults
) -> list[Share]:
    if not subsets:
        if is_meta_file(folder / META_FILE):
            return open_meta(folder / META_FILE, root=root, defaults=defaults)
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            tables = open_saved(folder, root=root, defaults=defaults)
            return [Share(table) for table in tables]
        files = [] if _declares_subsets(folder) else _find_row_files(folder)
        if files:
            return [
                Share(open_file(file, root=root or folder, defaults=defaults)) for file in files
            ]
    tables = load_folder(folder, str(folder), subsets, root=root, defaults=defaults)
    return [Share(table) for table in tables]


def _declares_subsets(folder: Path) -> bool:
    """Tell whether the README of a folder says which files make which subset."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace")[:100_000]
    except OSError:
        return False
    front, marker, _ = head.removeprefix("---").partition("\n---")
    return bool(marker) and re.search(r"^configs:", front, re.MULTILINE) is not None


def _find_row_files(folder: Path) -> list[Path]:
    """Find the files of rows in a folder; those for training where some are for tests."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from error
    for ending in _ROW_FILES:
        found = [
            entry
            for entry in entries
            if entry.suffix.lower() == ending and not _NOT_ROWS.fullmatch(entry.name)
        ]
        taken = [entry for entry in found if _FOR_TRAINING.fullmatch(entry.stem)]
        taken = taken or [entry for entry in found if not _FOR_TESTS.fullmatch(entry.stem)] or found
        if taken:
            if len(taken) < len(found):
                names = ", ".join(entry.name for entry in taken)
                _LOGGER.warning(
                    "%s: taking %s of its %d files, by their names", folder, names, len(found)
                )
            return taken
    return []
