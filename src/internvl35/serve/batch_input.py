"""A file of requests, one JSON object a line, of which only places and names are kept in memory.

A line is read when it is its turn. What its body asks is left to
:mod:`internvl35.serve.chat_body`. No counterpart in the paper.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO

from internvl35.errors import DataError
from internvl35.serve.fields import BodyError, Fields, show

URL = "/v1/chat/completions"
"""What requests are sent to."""

ROW_PREFIX = "batch_req_"
"""Beginning of what a row is called in the file of answers."""

_MARK = b"\xef\xbb\xbf"
_MAX_PAIRS = 5


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One request, as far as it is known without its body."""

    line: int
    """Number of its line, from 1."""
    start: int
    """Bytes in front of the line."""
    row_id: str
    """Made of the line's content, so that a changed line is another row."""
    custom_id: str | None
    """What its sender calls it; None if the line cannot be read."""


class BatchInput:
    """A file of requests.

    Args:
        path: of the file; blank lines are passed over.

    Raises:
        DataError: if it cannot be read, holds no row, or two rows share a ``custom_id``.
    """

    def __init__(self, path: Path) -> None:
        """Read the file once and note its rows."""
        self.path = path
        self.rows: list[BatchRow] = []
        lines: dict[str, int] = {}
        doubled: list[tuple[str, int, int]] = []
        try:
            with path.open("rb") as file:
                for row in _scan(file):
                    self.rows.append(row)
                    if row.custom_id is None:
                        continue
                    first = lines.setdefault(row.custom_id, row.line)
                    if first != row.line:
                        doubled.append((row.custom_id, first, row.line))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if doubled:
            raise _doubled(path, doubled)
        if not self.rows:
            raise DataError(f"{path} holds no row; needed: one JSON object a line")

    def read(self, row: BatchRow, file: BinaryIO) -> Mapping[str, Any]:
        """Read the body of a row.

        Args:
            row: of this file.
            file: this file, opened for reading bytes.

        Returns:
            The body, JSON values.

        Raises:
            BodyError: if the line is no request of the kind that is answered here.
            DataError: if the file has changed meanwhile.
        """
        file.seek(row.start)
        line = file.readline()
        if not row.row_id.startswith(_name(line)):
            raise DataError(f"{self.path} has changed at line {row.line}; run the command again")
        fields = Fields(_parse(line))
        fields.any("custom_id")
        if row.custom_id is None:
            raise BodyError("custom_id is missing; needed: a text that no other row has")
        for name, needed in (("method", "POST"), ("url", URL)):
            value = fields.text(name)
            if value != needed:
                raise BodyError(f"{name} is {show(value)}; needed: {show(needed)}", name)
        body = fields.any("body")
        fields.finish()
        if not isinstance(body, dict):
            raise BodyError(f"body is {show(body)}; needed: an object", "body")
        return body


def _scan(file: BinaryIO) -> Iterator[BatchRow]:
    start = 0
    nameless: dict[str, int] = {}
    for number, line in enumerate(file, 1):
        if line.strip() and line.strip() != _MARK:
            custom_id = _custom_id(line)
            name = _name(line)
            if custom_id is None:  # lines alike are told apart by how often they came before
                count = nameless[name] = nameless.get(name, 0) + 1
                name = f"{name}_{count}"
            yield BatchRow(number, start, name, custom_id)
        start += len(line)


def _name(line: bytes) -> str:
    return ROW_PREFIX + blake2b(line.removeprefix(_MARK).strip(), digest_size=12).hexdigest()


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line.removeprefix(_MARK).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise BodyError("the line is not UTF-8 text") from error
    except RecursionError as error:
        raise BodyError("the line is nested too deeply") from error
    except ValueError as error:
        raise BodyError(f"the line is not valid JSON: {error}") from error


def _custom_id(line: bytes) -> str | None:
    try:
        row = _parse(line)
    except BodyError:
        return None
    value = row.get("custom_id") if isinstance(row, dict) else None
    return value if isinstance(value, str) and value else None


def _doubled(path: Path, doubled: list[tuple[str, int, int]]) -> DataError:
    pairs = [f"{show(name)} on lines {first} and {again}" for name, first, again in doubled]
    more = f" and {len(pairs) - _MAX_PAIRS} more" if len(pairs) > _MAX_PAIRS else ""
    return DataError(
        f"{path} has rows of the same custom_id: {', '.join(pairs[:_MAX_PAIRS])}{more}; "
        "give every row one of its own"
    )
