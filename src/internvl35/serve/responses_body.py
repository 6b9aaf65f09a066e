"""Bodies of ``/v1/responses`` as chat-completions bodies, and answers in its form.

What this API has beyond chats (tools, stored conversations, background work) is refused. No
counterpart in the paper.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from internvl35.generate.answers import Completion
from internvl35.serve.chat_answer import AnswerFormat
from internvl35.serve.fields import BodyError, Fields, show

T = TypeVar("T")

_UNSUPPORTED = ("tools", "previous_response_id", "conversation", "background", "prompt")
_IGNORED = (
    "store", "user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key",
    "parallel_tool_calls", "include", "reasoning", "stream_options",
)  # fmt: skip
_SAME = (
    "model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "flash",
    "mm_processor_kwargs", "thinking", "stream",
)  # fmt: skip
_TEXTS = ("input_text", "output_text", "text")


@dataclass(frozen=True)
class AskedResponse:
    """A body in the words of chat completions."""

    body: dict[str, Any]
    """The chat-completions body."""
    instructions: str | None
    """What the model is told in front."""

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

    def _find(self, param: str) -> str:
        if param.startswith("response_format"):
            return "text.format"
        if param == "max_tokens":
            return "max_output_tokens"
        place = re.match(r"messages\[(\d+)\]", param)
        if place is None:
            return "input" if param.startswith("messages") else param
        number = int(place[1]) - (self.instructions is not None)
        return "instructions" if number < 0 else f"input[{number}]{param[place.end() :]}"


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
    for name in _UNSUPPORTED:
        if fields.any(name):
            raise BodyError(f"{name} is not supported; leave it out", name)
    if fields.any("tool_choice") not in (None, "none", "auto"):
        raise BodyError("tool_choice is not supported; leave it out", "tool_choice")
    if fields.any("truncation") not in (None, "disabled"):
        raise BodyError('truncation may be "disabled" alone', "truncation")
    instructions, given = fields.text("instructions"), fields.any("input")
    messages = [] if instructions is None else [{"role": "system", "content": instructions}]
    messages += _read_input(given)
    chat = {name: value for name in _SAME if (value := fields.any(name)) is not None}
    chat["messages"] = messages
    most = fields.whole("max_output_tokens")
    if most is not None:
        chat["max_tokens"] = most
    text = fields.inner("text")
    if text is not None:
        chat["response_format"] = _read_format(text)
    fields.finish(_IGNORED)
    return AskedResponse(chat, instructions)


def _read_format(text: Fields) -> dict[str, Any] | None:
    """``text.format``: what chat completions call ``response_format``, less nested."""
    form = text.any("format")
    text.finish(ignored=("verbosity",))
    if isinstance(form, dict) and form.get("type") == "json_schema":
        inner = {name: value for name, value in form.items() if name != "type"}
        return {"type": "json_schema", "json_schema": inner}
    return form  # type: ignore[no-any-return]  # which the other reader checks


def _read_input(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise BodyError(f"input is {show(given)}; needed: a text or a list of messages", "input")
    return [_read_item(Fields(item, f"input[{place}]")) for place, item in enumerate(given)]


def _read_item(item: Fields) -> dict[str, Any]:
    path = item.path("type")
    kind = item.text("type") or "message"
    if kind == "reasoning":
        raise BodyError(f"{path} is reasoning, which is not taken back; leave it out", path)
    if kind != "message":
        raise BodyError(f"{path} is {show(kind)}; known: message", path)
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
            "error": None, "incomplete_details": None, "metadata": {}, "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": False, "previous_response_id": None,
            "text": {"format": {"type": "text"}}, "truncation": "disabled",
        }  # fmt: skip

    def begin(self) -> dict[str, Any]:
        """Write the response before anything is answered."""
        return {**self._frame, "status": "in_progress", "output": [], "usage": None}

    def write(self, completion: Completion, thinking: str | None, answer: str) -> dict[str, Any]:
        """Write the whole response.

        Args:
            completion: the answer.
            thinking: its reasoning, if there is any.
            answer: what follows it.

        Returns:
            JSON values.
        """
        counts = self._form.describe_usage(completion)
        is_cut = completion.samples[0].finish_reason == "length"
        output = [] if thinking is None else [self.reasoning(thinking)]
        return {
            **self._frame,
            "status": "incomplete" if is_cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if is_cut else None,
            "output": [*output, self.message(answer, "incomplete" if is_cut else "completed")],
            "usage": {
                "input_tokens": counts["prompt_tokens"],
                "input_tokens_details": counts["prompt_tokens_details"],
                "output_tokens": counts["completion_tokens"],
                **({"output_tokens_details": {"reasoning_tokens": 0}} if thinking is None else {}),
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

    @staticmethod
    def text(text: str) -> Mapping[str, Any]:
        """Write the text of an answer."""
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
