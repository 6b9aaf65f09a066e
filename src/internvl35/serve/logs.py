"""What servers write to stderr: a line an event, for people or as JSON.

Lines hold names, numbers and ids of requests. They hold no key, no prompt and no answer: of an
error that might repeat one, its kind and its places in the code are written, not its text. No
counterpart in the paper.
"""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from internvl35.errors import ServerError
from internvl35.serve.frames import WireError

LogForm: TypeAlias = Literal["text", "json"]
"""How a line looks."""

_FACTS = "facts"
_TELLING = (RuntimeError, MemoryError, ModuleNotFoundError, ServerError, WireError)
"""Kinds of errors, exactly these, whose texts are about the machine; so are all OSErrors'."""
_MAX_FRAMES = 12


def with_facts(**facts: Any) -> dict[str, Any]:
    """Give a line of the log facts beside its text, as ``extra`` of a logger's call.

    Args:
        facts: JSON values, none of which is a secret or written by a user.

    Returns:
        What ``extra`` takes.
    """
    return {_FACTS: facts}


def start_log(form: LogForm, level: str, role: str) -> None:
    """Write the log of this process to stderr from now on.

    Args:
        form: how a line looks.
        level: least weight of what this package writes; of libraries, warnings.
        role: what the process does, for lines that are gathered from several.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter(form, role))
    root = logging.getLogger()
    for old in [one for one in root.handlers if isinstance(one.formatter, LineFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    logging.getLogger("internvl35").setLevel(level.upper())


class LineFormatter(logging.Formatter):
    """Makes one line of an event.

    Args:
        form: how it looks.
        role: of the process.
    """

    def __init__(self, form: LogForm, role: str) -> None:
        """Keep both."""
        super().__init__()
        self._form, self._role = form, role

    def format(self, record: logging.LogRecord) -> str:
        """Make the line; see ``logging.Formatter``."""
        facts = dict(getattr(record, _FACTS, {}))
        if record.exc_info is not None and record.exc_info[1] is not None:
            facts["fault"] = describe_fault(record.exc_info[1])
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        event = record.getMessage()
        if self._form == "json":
            line = {
                "time": moment, "level": record.levelname.lower(), "role": self._role,
                "logger": record.name, "event": event, **facts,
            }  # fmt: skip
            return json.dumps(line, default=str)
        told = "".join(f" {name}={_shown(value)}" for name, value in facts.items())
        return "".join(
            letter if letter.isprintable() else "?"
            for letter in f"{moment} {record.levelname} {event}{told}"
        )


def describe_fault(error: BaseException) -> list[str]:
    """Say what went wrong and where, without quoting what a user wrote.

    Args:
        error: any.

    Returns:
        For each error in the chain of causes, first cause first, its kind, then its places in the
        code, the innermost last.
    """
    chain: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in chain:
        chain.append(found)
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    lines = []
    for one in reversed(chain):
        is_telling = type(one) in _TELLING or isinstance(one, OSError)
        lines.append(f"{type(one).__name__}{f': {one}' if is_telling else ''}")
        frames = traceback.extract_tb(one.__traceback__)[-_MAX_FRAMES:]
        lines += [f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    return lines


def _short(path: str) -> str:
    return "/".join(Path(path).parts[-3:])


def _shown(value: Any) -> str:
    return " <- ".join(value) if isinstance(value, list) else str(value)
