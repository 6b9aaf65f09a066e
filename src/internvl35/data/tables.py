"""Rows of files on this machine: JSON lines, JSON lists, CSV, TSV and plain text, by their offsets.

Only the place of each row is held in memory, so files may be larger than it; tables are cheap to
pickle and safe to read from several processes and threads, because they open their file anew for
every row. What a row means is left to :mod:`internvl35.data.records`; Parquet, folders and hubs to
:mod:`internvl35.data.hub_tables`. No counterpart in the paper.
"""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from internvl35.data.json_lists import find_items
from internvl35.data.records import DEFAULTS, RowDefaults
from internvl35.errors import DataError

MAX_ROW_BYTES = 64 * 2**20
"""Longest row that is read, in bytes of its file."""

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def stamp_file(path: Path) -> str:
    """Make a text that changes when a file does.

    Args:
        path: of the file.

    Returns:
        Its path, size and time.

    Raises:
        OSError: if there is no such file.
    """
    status = path.stat()
    return f"{path} {status.st_size} {status.st_mtime_ns}"


class Table(Protocol):
    """Rows of one source in a fixed order."""

    @property
    def name(self) -> str:
        """What the source is called in messages."""

    @property
    def root(self) -> Path | None:
        """Folder that relative paths of the rows start from; None for the working directory."""

    @property
    def defaults(self) -> RowDefaults:
        """What holds for all rows."""

    @property
    def stamp(self) -> str:
        """A text that changes when the source does."""

    def __len__(self) -> int:
        """Count the rows, unreadable ones included."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Read a row; ``DataError``, without the place, if it cannot be read."""

    def locate(self, index: int) -> str:
        """Say where a row stands, for messages."""


class FileTable:
    """Rows of one text file in UTF-8, by the offsets of their bytes.

    Args:
        path: the file.
        root: folder that relative paths start from; by default the file's.
        defaults: what holds for all rows.

    Raises:
        DataError: if the file cannot be read or holds no rows.
    """

    def __init__(
        self, path: Path, *, root: Path | None = None, defaults: RowDefaults = DEFAULTS
    ) -> None:
        self.path = path
        self.root: Path | None = path.parent if root is None else root
        self.defaults = defaults
        try:
            self.stamp = stamp_file(path)
            with path.open("rb") as file:
                start = _skip_mark(file, path)
                self._offsets, self._lines = self._index(file, start)
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        if len(self) == 0:
            raise DataError(f"{path} holds no rows")

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        try:
            with self.path.open("rb") as file:
                file.seek(int(self._offsets[index]))
                return self._read(file, index)
        except OSError as error:
            raise DataError(f"the file cannot be read: {error.strerror or error}") from error

    def locate(self, index: int) -> str:
        """Name the file and the line, counted from 1."""
        return f"{self.name}:{self._lines[index]}"

    def _index(self, file: BinaryIO, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the offset and the line number of every row."""
        offsets, lines = array("q"), array("q")
        for number, (offset, line, _) in enumerate(_lines_of(file, start), start=1):
            if line.strip():
                offsets.append(offset)
                lines.append(number)
        return np.asarray(offsets, dtype=np.int64), np.asarray(lines, dtype=np.int64)

    def _read(self, file: BinaryIO, index: int) -> Mapping[str, Any]:
        """Read the row at which the file stands."""
        raise NotImplementedError


class JsonLinesTable(FileTable):
    """One JSON object a line; blank lines are no rows."""

    def _read(self, file: BinaryIO, index: int) -> Mapping[str, Any]:
        return parse_object(_read_line(file).rstrip(b"\r\n"), "the line")


class TextTable(FileTable):
    """One text a line, to pre-train on; blank lines are no rows."""

    def _read(self, file: BinaryIO, index: int) -> Mapping[str, Any]:
        return {"text": _decode(_read_line(file), "the line").rstrip("\r\n")}


class JsonListTable(FileTable):
    """The items of a JSON list, or of the list under ``data`` in a JSON object."""

    _ends: NDArray[np.int64]

    def locate(self, index: int) -> str:
        """Name the file and the item, counted from 1."""
        return f"{self.name} item {index + 1}"

    def _index(self, file: BinaryIO, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        offsets, self._ends = find_items(file, start, self.path)
        return offsets, offsets

    def _read(self, file: BinaryIO, index: int) -> Mapping[str, Any]:
        length = int(self._ends[index] - self._offsets[index])
        if length > MAX_ROW_BYTES:
            raise _too_long("the item", length)
        return parse_object(file.read(length), "the item")


class DelimitedTable(FileTable):
    """Rows of a CSV or TSV file under the names in its first row; empty cells are left out."""

    columns: list[str]

    @property
    def _delimiter(self) -> str:
        return "\t" if self.path.suffix.lower() == ".tsv" else ","

    def _index(self, file: BinaryIO, start: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        position = start

        def texts() -> Iterator[str]:
            nonlocal position
            for _, line, end in _lines_of(file, start):
                position = end
                # what is no UTF-8 is kept here, so that one bad row does not end the index
                yield line.decode("utf-8", "surrogateescape")

        reader = csv.reader(texts(), delimiter=self._delimiter)
        offsets, lines, is_first = array("q"), array("q"), True
        while True:
            offset, line_number = position, reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error:
                cells = ["?"]
            if is_first:
                is_first = False
                self.columns = self._check_header(cells)
            elif cells:
                offsets.append(offset)
                lines.append(line_number)
        return np.asarray(offsets, dtype=np.int64), np.asarray(lines, dtype=np.int64)

    def _check_header(self, cells: list[str]) -> list[str]:
        names = [cell.strip() for cell in cells]
        if not all(names) or len(set(names)) < len(names):
            raise DataError(
                f"the first row of {self.path} is {', '.join(names)!r}; needed: a different name "
                "for every column"
            )
        return names

    def _read(self, file: BinaryIO, index: int) -> Mapping[str, Any]:
        texts = (_decode(line, "the row") for _, line, _ in _lines_of(file, file.tell()))
        try:
            cells = next(csv.reader(texts, delimiter=self._delimiter))
        except csv.Error as error:
            raise DataError(f"the row is not valid CSV: {error}") from error
        if len(cells) != len(self.columns):
            raise DataError(
                f"the row has {len(cells)} cells where the first row names {len(self.columns)} "
                "columns; put cells that hold commas or line breaks in quotes"
            )
        return {name: cell for name, cell in zip(self.columns, cells, strict=True) if cell}


def parse_object(data: bytes, what: str) -> Mapping[str, Any]:
    """Read a JSON object.

    Args:
        data: its bytes in UTF-8.
        what: how messages call it.

    Returns:
        The object.

    Raises:
        DataError: if it is no JSON object.
    """
    text = _decode(data, what)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{what} is not valid JSON: {error.msg} at character {error.pos + 1}"
        ) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise DataError(f"{what} is JSON that cannot be read: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise DataError(f"{what} holds a {type(value).__name__}; needed: a JSON object")
    return value


def _skip_mark(file: BinaryIO, path: Path) -> int:
    """Stand behind a byte order mark; refuse what is not plain UTF-8 at first sight."""
    head = file.read(4)
    if head.startswith(_UTF_16):
        raise DataError(f"{path} is UTF-16; save it as UTF-8")
    if head.startswith(b"\x1f\x8b"):
        raise DataError(f"{path} is compressed; unpack it first (gunzip)")
    start = len(_BOM) if head.startswith(_BOM) else 0
    file.seek(start)
    return start


def _lines_of(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield where every line begins, its bytes, and where it ends; long ones are cut short."""
    offset = start
    while line := file.readline(MAX_ROW_BYTES + 1):
        end, last = offset + len(line), line
        while not last.endswith(b"\n") and (last := file.readline(MAX_ROW_BYTES + 1)):
            end += len(last)
        yield offset, line, end
        offset = end


def _read_line(file: BinaryIO) -> bytes:
    line = file.readline(MAX_ROW_BYTES + 1)
    if len(line) > MAX_ROW_BYTES:
        raise _too_long("the line", len(line))
    return line


def _too_long(what: str, length: int) -> DataError:
    return DataError(
        f"{what} has {length} bytes or more; at most {MAX_ROW_BYTES} are read: keep pictures in "
        "files, not in rows"
    )


def _decode(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{what} is not UTF-8 (byte {error.start + 1}); save the file so"
        ) from error


FILE_TABLES: Mapping[str, type[FileTable]] = {
    ".jsonl": JsonLinesTable,
    ".json": JsonListTable,
    ".csv": DelimitedTable,
    ".tsv": DelimitedTable,
    ".txt": TextTable,
}
"""Kinds of files by their ending."""


def open_file(
    path: Path, *, root: Path | None = None, defaults: RowDefaults = DEFAULTS
) -> FileTable:
    """Open a file of rows by its ending.

    A ``.json`` file that holds one object a line is read as JSON lines.

    Args:
        path: the file.
        root: folder that relative paths start from; by default the file's.
        defaults: what holds for all rows.

    Returns:
        Its rows.

    Raises:
        DataError: if it is of no known kind or cannot be read.
    """
    kind = FILE_TABLES.get(path.suffix.lower())
    if kind is None:
        advice = "; unpack it first" if path.suffix.lower() in (".gz", ".zip", ".zst") else ""
        raise DataError(
            f"{path} is of no known kind of data set; known: {', '.join(FILE_TABLES)}, .parquet "
            f"and folders{advice}"
        )
    if kind is JsonListTable and _is_json_lines(path):
        kind = JsonLinesTable
    return kind(path, root=root, defaults=defaults)


def _is_json_lines(path: Path) -> bool:
    """Tell whether the first line of a file is a JSON object and there is more behind it."""
    try:
        with path.open("rb") as file:
            file.seek(_skip_mark(file, path))
            first = file.readline(MAX_ROW_BYTES).strip()
            is_more = bool(file.read(1 << 16).strip())
    except OSError:
        return False  # opening it as a table says why
    if not first.startswith(b"{") or not is_more:
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False
