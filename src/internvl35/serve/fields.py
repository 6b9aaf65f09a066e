"""Reads the fields of a JSON object that others wrote, and refuses what is none of them.

What the fields mean is left to the files that ask for them. No counterpart in the paper.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from difflib import get_close_matches
from typing import Any

from internvl35.errors import ServerError

_SHOWN = 60
"""Most characters of a value that an error repeats."""


class BodyError(ServerError):
    """A request's body cannot be answered.

    Args:
        message: what was found, what is needed.
        param: path of the field that is wrong, as in ``messages[0].content``; None for the whole.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        """Keep the field's path beside the message."""
        super().__init__(message)
        self.param = param or None


class Fields:
    """The fields of one JSON object; null counts as left out.

    Args:
        value: what should be an object.
        path: where it stands in the body; empty for the body itself.

    Raises:
        BodyError: if it is no object.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        """Keep the fields that are not null."""
        if not isinstance(value, dict):
            raise BodyError(f"{path or 'the body'} is {show(value)}; needed: an object", path)
        self._path = path
        self._asked: set[str] = set()
        self._left = {name: given for name, given in value.items() if given is not None}

    def path(self, name: str) -> str:
        """Spell where a field stands in the body."""
        return f"{self._path}.{name}" if self._path else name

    def any(self, name: str) -> Any:
        """Take a field of any type; None if there is none."""
        self._asked.add(name)
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        """Take a text."""
        value = self.any(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, value, "a text")
        return value

    def truth(self, name: str) -> bool | None:
        """Take true or false."""
        value = self.any(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def whole(self, name: str) -> int | None:
        """Take a whole number of at most 63 bits."""
        value = self.any(name)
        if value is None:
            return None
        if type(value) is float and value.is_integer():  # 1.0 is how some languages write 1
            value = int(value)
        if type(value) is not int or abs(value) >= 2**63:
            raise self._wrong(name, value, "a whole number")
        return value

    def count(self, name: str) -> int | None:
        """Take a whole number of at least 1."""
        value = self.whole(name)
        if value is not None and value < 1:
            raise self._wrong(name, value, "a whole number of at least 1")
        return value

    def number(self, name: str) -> float | None:
        """Take a finite number."""
        value = self.any(name)
        return None if value is None else as_number(value, self.path(name))

    def entries(self, name: str) -> list[Any] | None:
        """Take a list."""
        value = self.any(name)
        if value is not None and not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        return value

    def inner(self, name: str) -> Fields | None:
        """Take an object."""
        value = self.any(name)
        return None if value is None else Fields(value, self.path(name))

    def refuse(self, names: Collection[str]) -> None:
        """Refuse fields that are known and not supported, unless they ask for nothing.

        Args:
            names: of these.

        Raises:
            BodyError: if one asks for something.
        """
        for name in names:
            if self.any(name):
                path = self.path(name)
                raise BodyError(f"{path} is not supported; leave it out", path)

    def finish(self, ignored: Collection[str] = ()) -> None:
        """Refuse fields that nobody asked for.

        Args:
            ignored: names of those that change nothing.

        Raises:
            BodyError: if there is another.
        """
        for name in self._left:
            if name not in ignored:
                near = get_close_matches(name, self._asked, 1, 0.7)
                hint = f"; do you mean {near[0]}?" if near else ""
                path = self.path(name)
                raise BodyError(f"the field {show(path)} is unknown{hint}", path)

    def _wrong(self, name: str, value: Any, needed: str) -> BodyError:
        path = self.path(name)
        return BodyError(f"{path} is {show(value)}; needed: {needed}", path)


def as_number(value: Any, path: str) -> float:
    """Read a finite number.

    Args:
        value: of the body.
        path: where it stands.

    Returns:
        The number.

    Raises:
        BodyError: if it is none.
    """
    if type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise BodyError(f"{path} is {show(value)}; needed: a number", path)


def as_ids(values: Collection[Any], path: str) -> tuple[int, ...]:
    """Read token ids.

    Args:
        values: of the body.
        path: where they stand.

    Returns:
        The ids.

    Raises:
        BodyError: if one is none.
    """
    for value in values:
        is_whole = type(value) is int or (type(value) is float and value.is_integer())
        if not is_whole or not 0 <= value < 2**31:
            raise BodyError(f"{path} holds {show(value)}; needed: token ids", path)
    return tuple(map(int, values))


def show(value: Any) -> str:
    """Write a value of a body into a message, in few characters."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, str) and len(value) > _SHOWN:
        value = f"{value[:_SHOWN]}..."
    return json.dumps(value)[: 2 * _SHOWN]
