"""The official way to list data sets: a JSON file of roots, annotation files and repeats.

The annotation files themselves are left to :mod:`internvl35.data.tables`. Paper section 3.1, data
mixture.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from internvl35.data.records import DEFAULTS, RowDefaults, read_augment, read_tiles
from internvl35.data.tables import Table, open_file
from internvl35.errors import DataError

_LOGGER = logging.getLogger(__name__)

META_FILE = "meta.json"
"""Name under which such a file is looked for in a folder."""

_MAX_REPEAT = 10_000
_HEAD_BYTES = 1 << 16
_ENTRY = re.compile(rb'\A(?:\xef\xbb\xbf)?\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{')
_ANNOTATION = re.compile(rb'"annotation"\s*:\s*"')
_KNOWN_KEYS = {
    "root", "annotation", "repeat_time", "data_augment", "max_dynamic_patch", "length",
}  # fmt: skip


@dataclass(frozen=True)
class Share:
    """A table and how much of it belongs to a data set."""

    table: Table
    """Rows."""
    repeat: float = 1.0
    """How often they are used; below 1 a random part of them, 2.5 twice and half of them again."""


def is_meta_file(path: Path) -> bool:
    """Tell whether a file lists data sets: an object of objects that name an ``annotation``.

    Args:
        path: any file.

    Returns:
        Whether it looks so, valid or not.
    """
    if path.suffix.lower() != ".json":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return bool(_ENTRY.match(head) and _ANNOTATION.search(head))


def open_meta(
    path: Path, *, root: Path | None = None, defaults: RowDefaults = DEFAULTS
) -> list[Share]:
    """Open the data sets that a file lists.

    Relative paths in it start from its own folder, or from the working directory where they lead
    nowhere from there.

    Args:
        path: the file.
        root: folder that the roots of the entries start from, and relative paths in rows of entries
            without one; by default the file's folder, and that of the entry's rows.
        defaults: what holds for all rows, unless an entry says otherwise.

    Returns:
        One share an entry, in order.

    Raises:
        DataError: if the file or an entry is not as it should be.
    """
    entries = _read(path)
    shares = []
    for name, entry in entries.items():
        try:
            shares.append(_open_entry(name, entry, path.parent, root, defaults))
        except DataError as error:
            raise DataError(f"{path}, entry {name!r}: {error}") from error
    return shares


def _read(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        before = error.doc[: error.pos].rstrip()
        advice = "; drop the comma behind the last entry" if before.endswith(",") else ""
        raise DataError(
            f"{path} is not valid JSON at line {error.lineno}, column {error.colno}: "
            f"{error.msg}{advice}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8; save it so") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {type(error).__name__}") from error
    if not isinstance(entries, dict) or not entries:
        raise DataError(f"{path} lists no data sets; needed: an object of names and entries")
    return entries


def _open_entry(
    name: str, entry: Any, folder: Path, media_root: Path | None, defaults: RowDefaults
) -> Share:
    if not isinstance(entry, dict):
        raise DataError(f"it is a {type(entry).__name__}; needed: an object with 'annotation'")
    unknown = sorted(set(entry) - _KNOWN_KEYS)
    if unknown:
        _LOGGER.warning("data set %r: %r mean nothing here", name, ", ".join(unknown))
    annotation = _locate(_take_text(entry, "annotation"), folder)
    if not annotation.is_file():
        raise DataError(f"annotation {annotation} is no file")
    given = _take_text(entry, "root", "")
    root = _locate(given, media_root or folder) if given else media_root
    own = replace(
        defaults,
        data_augment=read_augment(entry.get("data_augment"), defaults.data_augment),
        max_dynamic_patch=read_tiles(entry.get("max_dynamic_patch"), defaults.max_dynamic_patch),
    )
    table = open_file(annotation, root=root, defaults=own)
    length = entry.get("length")
    if length is not None and length != len(table):
        _LOGGER.warning(
            "data set %r: %s has %d rows where its entry says %s; the rows count",
            name, annotation, len(table), length,
        )  # fmt: skip
    return Share(table, _take_repeat(entry))


def _take_text(entry: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise DataError(f"{key} is {value!r}; needed: a path")
    return value


def _take_repeat(entry: Mapping[str, Any]) -> float:
    repeat = entry.get("repeat_time", 1)
    is_number = isinstance(repeat, (int, float)) and type(repeat) is not bool
    if not is_number or not 0 < repeat <= _MAX_REPEAT:
        raise DataError(
            f"repeat_time is {repr(repeat)[:80]}; needed: a number above 0, at most {_MAX_REPEAT}"
        )
    return float(repeat)


def _locate(text: str, folder: Path) -> Path:
    given = Path(text)
    with suppress(RuntimeError):  # ~name of nobody
        given = given.expanduser()
    beside = folder / given
    return given if not beside.exists() and given.exists() else beside
