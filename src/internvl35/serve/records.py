"""Frozen dataclasses as JSON and back: the fields of a message, by their types and no others.

The types of a dataclass say what is read; a field more, one less, or one of another type is an
error. Which dataclasses go over the wire is left to :mod:`internvl35.serve.messages`. No
counterpart in the paper.
"""

from __future__ import annotations

import json
import math
import types
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

from internvl35.errors import InternVLError
from internvl35.serve.frames import NackCode, WireError

Record = TypeVar("Record")


def write_fields(record: Any, skipped: frozenset[str] = frozenset()) -> bytes:
    """Write a dataclass as JSON.

    Args:
        record: of numbers, texts, tuples and such dataclasses.
        skipped: names of its fields that travel elsewhere.

    Returns:
        The bytes.

    Raises:
        WireError: if a text cannot be written as UTF-8.
    """
    value = {
        field.name: _plain(getattr(record, field.name))
        for field in fields(record)
        if field.name not in skipped
    }
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except ValueError as error:
        raise _wrong("a text or a number of a message cannot be written") from error


def read_fields(
    kind: type[Record], raw: bytes | bytearray, given: dict[str, Any] | None = None
) -> Record:
    """Read a dataclass.

    Args:
        kind: what it has to be.
        raw: JSON.
        given: fields that travelled elsewhere.

    Returns:
        The record, all of whose own rules hold.

    Raises:
        WireError: if the bytes are not one.
    """
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_without_repeats, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise _wrong("the fields of a frame are no JSON object") from error
    return _record(kind, value, kind.__name__, given or {})


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value == -math.inf:
        return "-inf"  # how likely a token is that cannot be
    return value


@lru_cache(maxsize=256)
def _types_of(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _record(kind: type[Record], value: Any, path: str, given: dict[str, Any]) -> Record:
    known: Any = kind
    hints = _types_of(known)
    if not isinstance(value, dict) or set(value) != set(hints) - set(given):
        raise _wrong(f"{path} has other fields than a message of this version")
    own = {name: _read(hints[name], item, f"{path}.{name}") for name, item in value.items()}
    try:
        return kind(**own, **given)
    except WireError:
        raise
    except (InternVLError, ValueError) as error:
        raise _wrong(f"{path} breaks a rule: {error}") from error


def _read(hint: Any, value: Any, path: str) -> Any:
    """Read a value of a type; bool is no number, and a whole number is a float."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _read_choice(get_args(hint), value, path)
    if origin is Literal:
        if not any(type(value) is type(known) and value == known for known in get_args(hint)):
            raise _wrong(f"{path} is none of the known values")
        return value
    if origin is tuple:
        return _read_tuple(get_args(hint), value, path)
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return _record(hint, value, path, {})
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if not isinstance(value, str) or value not in list(hint):
            raise _wrong(f"{path} is none of the known values")
        return hint(value)
    return _read_plain(hint, value, path)


def _read_plain(hint: Any, value: Any, path: str) -> Any:
    if hint is float:
        if value == "-inf":
            return -math.inf
        if type(value) in (int, float) and abs(value) < 2**63:
            return float(value)
    elif type(value) is hint:
        if hint is int and abs(value) >= 2**63:
            raise _wrong(f"{path} is a number of more than 63 bits")
        if hint is str:
            _check_text(value, path)
        return value
    assert hint in (bool, int, float, str), hint  # a message of ours has no other fields
    raise _wrong(f"{path} is a {type(value).__name__}; needed: a {hint.__name__}")


def _read_choice(hints: tuple[Any, ...], value: Any, path: str) -> Any:
    """Read a value that may be missing."""
    (hint,) = (hint for hint in hints if hint is not types.NoneType)
    return None if value is None else _read(hint, value, path)


def _read_tuple(hints: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(f"{path} is a {type(value).__name__}; needed: a list")
    if hints[-1] is Ellipsis:
        return tuple(_read(hints[0], item, path) for item in value)
    if len(value) != len(hints):
        raise _wrong(f"{path} has {len(value)} entries; needed: {len(hints)}")
    return tuple(_read(hint, item, path) for hint, item in zip(hints, value, strict=True))


def _check_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _wrong(f"{path} holds half a character") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a field stands there twice")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _wrong(message: str) -> WireError:
    return WireError(NackCode.MALFORMED, message)
