"""How tools, calls of them and their results are written for the Qwen3-based sizes.

The form is that of the chat template which comes with Qwen3's tokenizers. InternVL's own releases
publish no form of tool use: that their data used this one is unconfirmed. Writing the turns is left
to :mod:`internvl35.data.prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from internvl35.errors import PromptError

CALL_TAGS = ("<tool_call>", "</tool_call>")
"""Tags around a call; single tokens in what the assistant writes."""

RESULT_TAGS = ("<tool_response>", "</tool_response>")
"""Tags around a result; single tokens where a prompt writes them, plain text in every message."""

TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
"""Stands in front of the schemas in the system turn."""

TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
"""Stands behind the schemas."""


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool in an answer."""

    name: str
    """Of the tool."""
    arguments: str
    """A JSON object, as JSON text."""


def write_schemas(tools: str) -> str:
    """Write the schemas of tools for the system turn, one a line.

    Args:
        tools: JSON text: a list of schemas, or one.

    Returns:
        The lines, each with the line break in front of it.

    Raises:
        PromptError: if the text is no such JSON.
    """
    try:
        schemas = json.loads(tools)
    except ValueError as error:
        raise PromptError(f"the tools are not valid JSON: {error}") from error
    schemas = schemas if isinstance(schemas, list) else [schemas]
    if not schemas or not all(isinstance(schema, dict) for schema in schemas):
        raise PromptError("the tools are no schemas; needed: a JSON list of objects")
    return "".join(f"\n{json.dumps(schema, ensure_ascii=False)}" for schema in schemas)


def write_calls(calls: Sequence[Mapping[str, Any] | str], said: str = "") -> str:
    """Write an assistant's turn that calls tools.

    Args:
        calls: each with ``name`` and ``arguments`` (an object, or its JSON text), possibly inside
            ``function``; or the JSON text of such a call.
        said: what the assistant says in front of them.

    Returns:
        The text of the turn.

    Raises:
        PromptError: if a call has no name or is no JSON.
    """
    parts = [said] if said else []
    for call in calls:
        name, arguments = _read_call(call)
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        name = json.dumps(name, ensure_ascii=False)
        parts.append(f'<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>')
    return "\n".join(parts)


def _read_call(call: Mapping[str, Any] | str) -> tuple[str, Any]:
    if isinstance(call, str):
        try:
            call = json.loads(call)
        except ValueError as error:
            raise PromptError(f"a tool call is not valid JSON: {error}") from error
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise PromptError("a tool call has no name; needed: an object with name and arguments")
    return inner["name"], inner.get("arguments") or {}


class CallReader:
    """Takes the calls of tools out of an answer while it is written.

    What is no whole call of a known tool stays text. However an answer is cut into pieces, its
    calls and its joined texts are the same.

    Args:
        names: of the tools that may be called.
        is_parallel: whether an answer may call several; otherwise only its first call counts.
    """

    def __init__(self, names: Collection[str], *, is_parallel: bool = True) -> None:
        """Begin with nothing written."""
        self._names, self._is_parallel = frozenset(names), is_parallel
        self._held = ""
        self._has_called = False
        self._is_at_start = True  # of the answer or behind a call, where blanks say nothing

    def add(self, text: str, *, is_last: bool = False) -> list[str | ToolCall]:
        """Take in what was written.

        Args:
            text: of the answer, without reasoning.
            is_last: whether nothing follows.

        Returns:
            Texts and calls that can be told now; blanks around calls are not told.
        """
        self._held += text
        found: list[str | ToolCall] = []
        opening, closing = CALL_TAGS
        while (start := self._held.find(opening)) >= 0:
            behind = start + len(opening)
            read = self._read(behind) if self._held.find(closing, behind) >= 0 else None
            if read is not None:
                call, end = read
                found.append(self._take(start))
                found += [call] if self._is_parallel or not self._has_called else []
                self._held = self._held[end - start :]
                self._has_called = self._is_at_start = True
            elif is_last:
                found.append(self._take(behind, keeps_blanks=True))
            else:
                found.append(self._take(len(self._held[:start].rstrip())))
                return [one for one in found if one]
        found.append(self._take(len(self._held) if is_last else self._num_settled()))
        return [one for one in found if one]

    def _take(self, count: int, *, keeps_blanks: bool = False) -> str:
        """Take text from the front of what is held."""
        text, self._held = self._held[:count], self._held[count:]
        if self._is_at_start:
            text = text.lstrip()
        self._is_at_start &= not text
        return text if keeps_blanks else text.rstrip()

    def _num_settled(self) -> int:
        """Count the characters that are neither the beginning of a tag nor blanks before one."""
        opening, length = CALL_TAGS[0], len(self._held)
        for size in range(min(len(opening) - 1, length), 0, -1):
            if self._held.endswith(opening[:size]):
                length -= size
                break
        return len(self._held[:length].rstrip())

    def _read(self, start: int) -> tuple[ToolCall, int] | None:
        """Read a call and its closing tag; None if there is none yet, or none at all."""
        text, closing = self._held, CALL_TAGS[1]
        start += len(text[start:]) - len(text[start:].lstrip())
        try:
            call, end = _DECODER.raw_decode(text, start)
            name, arguments = _read_call(call)
            arguments = _DECODER.decode(arguments) if isinstance(arguments, str) else arguments
        except (ValueError, RecursionError, PromptError):
            return None
        end += len(text[end:]) - len(text[end:].lstrip())
        is_call = isinstance(arguments, dict) and name in self._names
        if not is_call or not text.startswith(closing, end):
            return None
        return ToolCall(name, json.dumps(arguments, ensure_ascii=False)), end + len(closing)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
