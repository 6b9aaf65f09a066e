"""Bodies of ``/v1/responses`` as chat-completions bodies, and answers in its form.

What this API has beyond chats (built-in tools, stored conversations, background work) is refused.
No counterpart in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from internvl35.data.tool_calls import ToolCall
from internvl35.generate.answers import Completion
from internvl35.serve.answer_pieces import Answer
from internvl35.serve.chat_answer import AnswerFormat, name_call
from internvl35.serve.fields import BodyError, Fields, show

T = TypeVar("T")

_UNSUPPORTED = ("previous_response_id", "conversation", "background", "prompt")
IGNORED = (
    "store", "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
    "include", "reasoning", "stream_options",
)  # fmt: skip
"""Fields that say nothing about the answer."""

_SAME = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "flash",
    "mm_processor_kwargs", "thinking", "stream", "parallel_tool_calls",
)  # fmt: skip
_TEXTS = ("input_text", "output_text", "text")


@dataclass(frozen=True)
class AskedResponse:
    """A body in the words of chat completions."""

    body: dict[str, Any]
    """The chat-completions body."""
    instructions: str | None
    """What the model is told in front."""
    places: tuple[str, ...]
    """Where each of its messages stands in the body that was sent."""

    def call(self, read: Callable[[Any], T]) -> T:
        """Read the chat-completions body, and say of errors where they stand in the other one.

        Args:
            read: reads it.

        Returns:
            What it reads.

        Raises:
            BodyError: with the field's place in the body that was sent.
        """
        try:
            return read(self.body)
        except BodyError as error:
            if error.param is None:
                raise
            param = self._find(error.param)
            raise BodyError(str(error).replace(error.param, param), param) from error

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools as they were sent."""
        tools = self.body.get("tools", ())
        return [{"type": "function", "strict": False, **tool["function"]} for tool in tools]

    @property
    def tool_choice(self) -> Any:
        """What was said of calls."""
        choice = self.body.get("tool_choice", "auto")
        return {"type": "function", **choice["function"]} if isinstance(choice, dict) else choice

    def _find(self, param: str) -> str:
        if param.startswith("response_format"):
            return "text.format"
        if param == "max_tokens":
            return "max_output_tokens"
        place = re.match(r"messages\[(\d+)\](\.tool_calls\[\d+\](\.function)?)?", param)
        if place is None:
            return "input" if param.startswith("messages") else param.replace(".function", "")
        rest = param[place.end() :].replace("tool_call_id", "call_id")
        return f"{self.places[int(place[1])]}{rest}"


def read_response(body: Any) -> AskedResponse:
    """Turn a body into one of chat completions.

    Args:
        body: JSON values.

    Returns:
        The other body.

    Raises:
        BodyError: if a field is unknown, unsupported or of another form.
    """
    fields = Fields(body)
    fields.refuse(_UNSUPPORTED)
    if fields.any("truncation") not in (None, "disabled"):
        raise BodyError('truncation may be "disabled" alone', "truncation")
    instructions, given = fields.text("instructions"), fields.any("input")
    told = [] if instructions is None else [{"role": "system", "content": instructions}]
    messages, places = _read_input(given)
    chat = {name: value for name in _SAME if (value := fields.any(name)) is not None}
    chat["messages"] = [*told, *messages]
    tools, choice = fields.entries("tools"), fields.any("tool_choice")
    if tools is not None:
        chat["tools"] = [_nest(tool, f"tools[{place}]") for place, tool in enumerate(tools)]
    if choice is not None:
        chat["tool_choice"] = _nest(choice, "tool_choice") if isinstance(choice, dict) else choice
    most = fields.whole("max_output_tokens")
    if most is not None:
        chat["max_tokens"] = most
    text = fields.inner("text")
    if text is not None:
        chat["response_format"] = _read_format(text)
    fields.finish(IGNORED)
    return AskedResponse(chat, instructions, (*("instructions" for _ in told), *places))


def _nest(tool: Any, path: str) -> dict[str, Any]:
    """A function, or the choice of one, as chat completions have it, more nested."""
    fields = Fields(tool, path)
    where, kind = fields.path("type"), fields.text("type")
    if kind != "function":
        raise BodyError(f"{where} is {show(kind)}; known: function", where)
    return {"type": kind, "function": {name: tool[name] for name in tool if name != "type"}}


def _read_format(text: Fields) -> dict[str, Any] | None:
    """``text.format``: what chat completions call ``response_format``, less nested."""
    form = text.any("format")
    text.finish(ignored=("verbosity",))
    if isinstance(form, dict) and form.get("type") == "json_schema":
        inner = {name: value for name, value in form.items() if name != "type"}
        return {"type": "json_schema", "json_schema": inner}
    return form  # type: ignore[no-any-return]  # which the other reader checks


def _read_input(given: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """Read ``input``; gives messages, and where each of them stands."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}], ["input"]
    if not isinstance(given, list) or not given:
        raise BodyError(f"input is {show(given)}; needed: a text or a list of messages", "input")
    messages: list[dict[str, Any]] = []
    places = []
    for number, entry in enumerate(given):
        item = Fields(entry, f"input[{number}]")
        kind = item.text("type") or "message"
        if kind == "function_call":
            call = _read_call(item)
            if messages and messages[-1]["role"] == "assistant":
                messages[-1].setdefault("tool_calls", []).append(call)
                continue
            messages.append({"role": "assistant", "tool_calls": [call]})
        elif kind == "function_call_output":
            messages.append(_read_result(item))
        else:
            messages.append(_read_message(item, kind))
        places.append(f"input[{number}]")
    return messages, places


def _read_call(item: Fields) -> dict[str, Any]:
    call = {"id": item.any("call_id"), "type": "function"}
    function = {"name": item.any("name"), "arguments": item.any("arguments")}
    item.finish(ignored=("id", "status"))
    return {**call, "function": function}


def _read_result(item: Fields) -> dict[str, Any]:
    content, where = item.any("output"), item.path("output")
    call_id = item.any("call_id")
    item.finish(ignored=("id", "status"))
    if isinstance(content, list):
        content = [_read_part(Fields(part, f"{where}[{n}]")) for n, part in enumerate(content)]
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def _read_message(item: Fields, kind: str) -> dict[str, Any]:
    path = item.path("type")
    if kind == "reasoning":
        raise BodyError(f"{path} is reasoning, which is not taken back; leave it out", path)
    if kind != "message":
        known = "message, function_call, function_call_output"
        raise BodyError(f"{path} is {show(kind)}; known: {known}", path)
    role, content = item.any("role"), item.any("content")
    where = item.path("content")
    item.finish(ignored=("id", "status"))
    if isinstance(content, list):
        content = [
            _read_part(Fields(part, f"{where}[{place}]")) for place, part in enumerate(content)
        ]
    return {"role": role, "content": content}


def _read_part(part: Fields) -> dict[str, Any]:
    path, kind = part.path("type"), part.text("type")
    if kind in _TEXTS:
        text = part.any("text")
        part.finish(ignored=("annotations", "logprobs"))
        return {"type": "text", "text": text}
    if kind != "input_image":
        raise BodyError(f"{path} is {show(kind)}; known: input_text and input_image", path)
    picture = {"url": part.any("image_url"), "detail": part.any("detail")}
    part.finish()
    return {"type": "image_url", "image_url": picture}


class ResponseFormat:
    """Writes one response, whole or growing.

    Args:
        form: writes counts.
        number: what is random about the names of the response and its parts.
        created: seconds since 1970.
        asked: the body.
    """

    def __init__(self, form: AnswerFormat, number: str, created: int, asked: AskedResponse) -> None:
        """Keep what all writings of the response share."""
        self._form, self._number = form, number
        self._frame: dict[str, Any] = {
            "id": f"resp_{number}", "object": "response", "created_at": created,
            "model": form.model, "instructions": asked.instructions,
            "max_output_tokens": asked.body.get("max_tokens"),
            "temperature": asked.body.get("temperature"), "top_p": asked.body.get("top_p"),
            "error": None, "incomplete_details": None, "metadata": {},
            "tools": asked.tools, "tool_choice": asked.tool_choice,
            "parallel_tool_calls": asked.body.get("parallel_tool_calls", True),
            "previous_response_id": None,
            "text": {"format": {"type": "text"}}, "truncation": "disabled",
        }  # fmt: skip

    def begin(self) -> dict[str, Any]:
        """Write the response before anything is answered."""
        return {**self._frame, "status": "in_progress", "output": [], "usage": None}

    def write(self, completion: Completion, answer: Answer) -> dict[str, Any]:
        """Write the whole response.

        Args:
            completion: the answer.
            answer: the same, taken apart.

        Returns:
            JSON values.
        """
        counts = self._form.describe_usage(completion)
        is_cut = completion.samples[0].finish_reason == "length"
        output = [] if answer.thinking is None else [self.reasoning(answer.thinking)]
        if answer.text or not answer.calls:
            output.append(self.message(answer.text, "incomplete" if is_cut else "completed"))
        output += [self.call(number, call) for number, call in enumerate(answer.calls)]
        return {
            **self._frame,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": output,
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "input_tokens_details": counts["prompt_tokens_details"],
                "output_tokens": counts["completion_tokens"],
                **_count_reasoning(answer),
                "total_tokens": counts["total_tokens"],
            },
        }

    def reasoning(self, text: str) -> dict[str, Any]:
        """Write the reasoning as a part of the output."""
        content = [{"type": "reasoning_text", "text": text}]
        return {
            "type": "reasoning", "id": f"rs_{self._number}", "summary": [], "content": content,
            "status": "completed",
        }  # fmt: skip

    def message(self, text: str | None, status: str) -> dict[str, Any]:
        """Write the answer as a part of the output; None where it has not begun."""
        content = [] if text is None else [self.text(text)]
        return {
            "type": "message", "id": f"msg_{self._number}", "status": status, "role": "assistant",
            "content": content,
        }  # fmt: skip

    def call(self, number: int, call: ToolCall, *, is_whole: bool = True) -> dict[str, Any]:
        """Write a call as a part of the output; without arguments where it has just begun."""
        return {
            "type": "function_call", "id": f"fc_{self._number}_{number}",
            "call_id": name_call(self._number, 0, number), "name": call.name,
            "arguments": call.arguments if is_whole else "",
            "status": "completed" if is_whole else "in_progress",
        }  # fmt: skip

    @staticmethod
    def text(text: str) -> Mapping[str, Any]:
        """Write the text of an answer."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _count_reasoning(answer: Answer) -> dict[str, Any]:
    """Tokens of reasoning are known only where there are none."""
    if answer.thinking is not None:
        return {}
    return {"output_tokens_details": {"reasoning_tokens": 0}}
