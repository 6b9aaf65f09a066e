"""The file of answers to a file of requests: a line a row, in the order in which they finish.

A line is written at once and whole, so that a run that is killed at any time goes on behind the
last one. What a line says of an answer is left to :mod:`internvl35.serve.chat_answer`. No
counterpart in the paper.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from internvl35.errors import DataError
from internvl35.serve.batch_input import ROW_PREFIX, BatchRow
from internvl35.serve.fields import show

_BEGINNING = b'{"id": "' + ROW_PREFIX.encode()


class BatchOutput:
    """A file of answers, new or gone on with; no other process can write it meanwhile.

    Args:
        path: of the file; its folder is made if missing.
        rows: all rows that are to be answered.
        fingerprint: of the settings that answer.

    Raises:
        DataError: if it cannot be written, another run writes it, or it holds something else than
            answers to these rows under these settings.
    """

    def __init__(self, path: Path, rows: Sequence[BatchRow], fingerprint: str) -> None:
        """Note which rows are answered, and cut a half-written line off."""
        self.path = path
        self.done: set[str] = set()
        self.num_failed = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_file():
                raise DataError(f"{path} is not a regular file; name another file")
            self._file = path.open("a+b", buffering=0)
        except OSError as error:
            raise DataError(
                f"answers cannot be written to {path}: {error.strerror}; name another file"
            ) from error
        try:
            _lock(self._file.fileno(), path)
            self._read(rows, fingerprint)
        except BaseException:
            self._file.close()
            raise

    def append(self, row: BatchRow, line: Mapping[str, Any]) -> None:
        """Write the answer to a row at once.

        Args:
            row: that is answered.
            line: what is said beside the row's names; ``response`` and ``error``.

        Raises:
            DataError: if the disk does not take it.
        """
        named = {"id": row.row_id, "custom_id": row.custom_id, **line}
        # half a character of UTF-16 becomes its escape, which JSON knows
        text = json.dumps(named, ensure_ascii=False, allow_nan=False) + "\n"
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror}; free space, then run the same "
                "command: it goes on behind the last whole line"
            ) from error
        self.done.add(row.row_id)
        self.num_failed += _is_failed(line)

    def close(self) -> None:
        """Hand what was written to the disk, and close the file."""
        with suppress(OSError):  # what could not be written was reported then
            os.fsync(self._file.fileno())
        self._file.close()

    def _read(self, rows: Sequence[BatchRow], fingerprint: str) -> None:
        known = {row.row_id for row in rows}
        names = {row.custom_id for row in rows if row.custom_id is not None}
        end, number, line = 0, 0, b""
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                self._note(line, number, known, names, fingerprint)
                end += len(line)
        if line and not line.endswith(b"\n"):
            if not _BEGINNING.startswith(line[: len(_BEGINNING)]):
                raise self._foreign(number)
            self._file.truncate(end)

    def _note(
        self, line: bytes, number: int, known: set[str], names: set[str], fingerprint: str
    ) -> None:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not line.startswith(_BEGINNING) or not isinstance(found, dict):
            raise self._foreign(number)
        row_id, custom_id = found["id"], found.get("custom_id")
        if row_id not in known:
            what = "the changed row" if custom_id in names else "a row that is not there:"
            raise DataError(
                f"line {number} of {self.path} answers {what} {show(custom_id)}; name another "
                "file, or take the requests as they were"
            )
        if row_id in self.done:
            raise DataError(
                f"line {number} of {self.path} answers {show(custom_id)} for the second time; take "
                "one of the lines out"
            )
        body = (found.get("response") or {}).get("body") or {}
        given = body.get("system_fingerprint", fingerprint)
        if given != fingerprint:
            raise DataError(
                f"line {number} of {self.path} was answered by another checkpoint or other options "
                f"(system_fingerprint {show(given)}, now {fingerprint}); name another file, or "
                "take the same ones"
            )
        self.done.add(row_id)
        self.num_failed += _is_failed(found)

    def _foreign(self, number: int) -> DataError:
        return DataError(
            f"line {number} of {self.path} is no answer of this command; name another file"
        )


def _is_failed(line: Mapping[str, Any]) -> bool:
    response = line.get("response")
    return response is None or response["status_code"] != 200


def _lock(descriptor: int, path: Path) -> None:
    """Keep other runs off a file for as long as it is open."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(f"another run writes {path}; wait for it or name another file") from error
    except OSError:  # a file system without locks
        return
