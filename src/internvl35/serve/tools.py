"""Tools that a body offers, and calls of them in its messages.

How tools and calls stand in prompts and answers is said by :mod:`internvl35.data.tool_calls`. A
call that is demanded is begun in the prompt and held to the schemas of the tools. No counterpart in
the paper.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from internvl35.data.tool_calls import CALL_TAGS, CallReader
from internvl35.generate.sampling import StructureSettings
from internvl35.serve.fields import BodyError, Fields, show

MAX_TOOLS = 128
"""Most tools of a body."""

NAME = "[A-Za-z0-9_.-]{1,64}"
"""What tools may be called."""

_LITERALS = ("const", "enum", "default", "examples")
"""Parts of a JSON schema in which nothing refers to other parts."""


@dataclass(frozen=True)
class ToolUse:
    """The tools that an answer may call."""

    schemas: str
    """JSON text of their schemas, as prompts show them."""
    names: tuple[str, ...]
    """Of those that may be called."""
    is_parallel: bool = True
    """Whether an answer may call several."""
    structure: StructureSettings | None = None
    """What the answer is held to if it has to be a call; None if the model is free."""

    @property
    def prefix(self) -> str:
        """What the prompt writes of the answer."""
        return "" if self.structure is None else f"{CALL_TAGS[0]}\n"

    @property
    def suffix(self) -> str:
        """What follows an answer that is held to a structure."""
        return "" if self.structure is None else f"\n{CALL_TAGS[1]}"

    def start(self) -> CallReader:
        """Begin to read the calls of an answer."""
        return CallReader(self.names, is_parallel=self.is_parallel)


def read_tools(fields: Fields) -> ToolUse | None:
    """Take from a body which tools may be called: ``tools``, ``tool_choice``.

    Args:
        fields: of the body.

    Returns:
        The tools; None if none may be called.

    Raises:
        BodyError: if a field has another form, or an unknown tool is demanded.
    """
    try:
        return _read_tools(fields)
    except RecursionError as error:
        path = fields.path("tools")
        raise BodyError(f"{path}: a JSON schema is nested too deeply", path) from error


def _read_tools(fields: Fields) -> ToolUse | None:
    path, entries = fields.path("tools"), fields.entries("tools") or []
    is_parallel = fields.truth("parallel_tool_calls") is not False
    choice = fields.any("tool_choice")
    if len(entries) > MAX_TOOLS:
        raise BodyError(f"{path} holds {len(entries)} tools; at most {MAX_TOOLS}", path)
    tools = [_read_tool(Fields(entry, f"{path}[{n}]")) for n, entry in enumerate(entries)]
    names = tuple(tool["function"]["name"] for tool in tools)
    for number, name in enumerate(names):
        if name in names[:number]:
            where = f"{path}[{number}]"
            raise BodyError(f"{where} is a second tool {name}; give it its own name", where)
    where = fields.path("tool_choice")
    wanted = _read_choice(choice, where)
    if wanted in ("none", "auto"):
        if wanted == "none" or not tools:
            return None
        return ToolUse(json.dumps(tools, ensure_ascii=False), names, is_parallel)
    if not tools:
        raise BodyError(f"{where} demands a call but there are no tools; give tools", where)
    if isinstance(wanted, tuple):
        if wanted[0] not in names:
            raise BodyError(f"{where} names {show(wanted[0])}; known: {', '.join(names)}", where)
        names = wanted
    structure = _demand([tool["function"] for tool in tools if tool["function"]["name"] in names])
    return ToolUse(json.dumps(tools, ensure_ascii=False), names, is_parallel, structure)


def _read_choice(choice: Any, where: str) -> str | tuple[str]:
    """Read ``none``, ``auto`` or ``required``, or the one name that is demanded."""
    if choice is None or choice in ("none", "auto", "required"):
        return choice or "auto"
    if isinstance(choice, str):
        raise BodyError(
            f"{where} is {show(choice)}; known: none, auto, required and a function's name in "
            '{"type": "function", "function": {"name": ...}}', where,
        )  # fmt: skip
    fields = Fields(choice, where)
    inner = _read_function(fields)
    name = inner.text("name")
    inner.finish()
    fields.finish()
    return (name or "",)


def _read_function(fields: Fields) -> Fields:
    path, kind = fields.path("type"), fields.text("type")
    if kind != "function":
        raise BodyError(f"{path} is {show(kind)}; known: function", path)
    inner, path = fields.inner("function"), fields.path("function")
    if inner is None:
        raise BodyError(f"{path} is missing; needed: an object with a name", path)
    return inner


def _read_tool(fields: Fields) -> dict[str, Any]:
    inner = _read_function(fields)
    fields.finish()
    path, name = inner.path("name"), inner.text("name")
    if name is None or not re.fullmatch(NAME, name):
        raise BodyError(
            f"{path} is {show(name)}; needed: 1 to 64 letters, digits, dots, _ and -", path
        )
    description, parameters = inner.text("description"), inner.any("parameters")
    inner.truth("strict")  # a call that is demanded follows its schema in any case
    inner.finish()
    path = inner.path("parameters")
    if parameters is not None and not isinstance(parameters, dict):
        raise BodyError(f"{path} is {show(parameters)}; needed: a JSON schema", path)
    if parameters is not None and parameters.get("type", "object") != "object":
        raise BodyError(f"{path} are of another type; needed: a schema of an object", path)
    function = {"name": name, "description": description, "parameters": parameters}
    shown = {field: value for field, value in function.items() if value is not None}
    return {"type": "function", "function": shown}


def _demand(functions: Sequence[Mapping[str, Any]]) -> StructureSettings:
    """Say that an answer has to call one of these functions."""
    calls = []
    for number, function in enumerate(functions):
        parameters = {"type": "object", **function.get("parameters", {"properties": {}})}
        for name in ("$id", "$schema"):
            parameters.pop(name, None)
        place = f"#/anyOf/{number}/properties/arguments"
        calls.append({
            "type": "object",
            "properties": {
                "name": {"const": function["name"]}, "arguments": _move(parameters, place),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        })  # fmt: skip
    return StructureSettings(json_schema=json.dumps({"anyOf": calls}))


def _move(schema: Any, place: str) -> Any:
    """Let the references of a schema lead where they did after it is put inside another one."""
    if isinstance(schema, list):
        return [_move(part, place) for part in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {
        name: part if name in _LITERALS else _move(part, place) for name, part in schema.items()
    }
    target = schema.get("$ref")
    if isinstance(target, str) and target.startswith("#"):
        moved["$ref"] = place + target[1:]
    return moved


def read_calls(fields: Fields) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Take from an assistant's message the calls that it made.

    Args:
        fields: of the message.

    Returns:
        Calls as :func:`internvl35.data.tool_calls.write_calls` takes them, and their ids.

    Raises:
        BodyError: if a call has another form.
    """
    calls, ids = [], []
    path = fields.path("tool_calls")
    for number, entry in enumerate(fields.entries("tool_calls") or ()):
        call = Fields(entry, f"{path}[{number}]")
        inner, call_id = _read_function(call), call.text("id")
        name, arguments = inner.text("name"), inner.text("arguments")
        if name is None:
            raise BodyError(f"{inner.path('name')} is missing", inner.path("name"))
        calls.append({"name": name, "arguments": _read_arguments(inner, arguments)})
        if call_id is None or call_id in ids:
            where = call.path("id")
            raise BodyError(f"{where} is {show(call_id)}; needed: a text of its own", where)
        ids.append(call_id)
        inner.finish()
        call.finish(ignored=("index",))
    return calls, tuple(ids)


def _read_arguments(fields: Fields, text: str | None) -> dict[str, Any]:
    path, found = fields.path("arguments"), None
    with suppress(ValueError, RecursionError):
        found = json.loads(text or "{}")
        json.dumps(found)  # as prompts need it, from a deeper place
    if not isinstance(found, dict):
        raise BodyError(f"{path} is {show(text)}; needed: the JSON text of an object", path)
    return found


class ResultOrder:
    """Puts results in the order of the calls that they answer: in a prompt they have no names."""

    def __init__(self) -> None:
        """Begin without calls."""
        self._ranks: dict[str, int] = {}
        self._told: list[int] = []

    def note_calls(self, ids: Sequence[str]) -> None:
        """Note the calls of the message that the next results follow."""
        self._ranks = {call_id: rank for rank, call_id in enumerate(ids)}
        self._told = []

    def count_later(self, fields: Fields) -> int:
        """Take from a tool's message which call it answers.

        Args:
            fields: of the message.

        Returns:
            How many of the results before it belong behind it.

        Raises:
            BodyError: if there is no such call, or it is answered already.
        """
        path, call_id = fields.path("tool_call_id"), fields.text("tool_call_id")
        if call_id not in self._ranks:
            raise BodyError(
                f"{path} is {show(call_id)}; needed: the id of a call in the message of the "
                "assistant before, each once", path,
            )  # fmt: skip
        rank = self._ranks.pop(call_id)
        self._told.append(rank)
        return sum(other > rank for other in self._told)
