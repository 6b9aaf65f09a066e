"""How tools, calls of them and their results are written for the Qwen3-based sizes.

The form is that of the chat template which comes with Qwen3's tokenizers. InternVL's own releases
publish no form of tool use: that their data used this one is unconfirmed. Writing the turns is left
to :mod:`internvl35.data.prompt`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
