"""The turns of a row, from lists of messages in the usual shapes or from question and answer.

Which file a picture is in is left to :mod:`internvl35.data.row_media`; whether the turns follow
one another as a prompt needs it, to :mod:`internvl35.data.turns`. No counterpart in the paper.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from internvl35.data.messages import IMAGE_MARK, VIDEO_MARK, Message, Role
from internvl35.data.tool_calls import write_calls
from internvl35.data.turns import is_pretraining
from internvl35.errors import DataError, PromptError

FROM_COLUMN = None
"""Slot of a mark whose picture or video stands in a column of its own."""

CALL = "tool_call"
"""Role of a message that calls a tool; it joins what the assistant said before it."""

PRETRAIN = "pretrain"
"""Role of the one message of a row of plain text."""

ROLES: Mapping[str, Role | str] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant",
    "tool": "tool", "tool_response": "tool", "function": "tool", "observation": "tool",
    "tool_call": CALL, "function_call": CALL,
    "pretrain": PRETRAIN,
}  # fmt: skip
"""Role names of the usual shapes."""

_LEADING_MARKS = re.compile(rf"(?:(?:{IMAGE_MARK}|{VIDEO_MARK})\s*)+")
_LONE_MARK = re.compile(rf"({IMAGE_MARK}|{VIDEO_MARK})(?!\s)")
_KINDS = {"image": IMAGE_MARK, "video": VIDEO_MARK}


@dataclass
class Slots:
    """Where the pictures and videos of a row come from, mark by mark."""

    image: list[Any] = field(default_factory=list)
    """For each ``<image>`` mark its value, or ``FROM_COLUMN``."""
    video: list[Any] = field(default_factory=list)
    """For each ``<video>`` mark its value, or ``FROM_COLUMN``."""

    def add_marks(self, text: str) -> None:
        """Take a slot for every mark that is written in a text."""
        self.image += [FROM_COLUMN] * text.count(IMAGE_MARK)
        self.video += [FROM_COLUMN] * text.count(VIDEO_MARK)


def read_messages(entries: Any, slots: Slots) -> tuple[Message, ...]:
    """Read a list of messages: ``role`` and ``content``, or ``from`` and ``value``.

    Marks at the beginning of a ``content`` get the line break behind them that the released models
    expect; a ``value`` stays as it is, because the official training takes it so.

    Args:
        entries: the list; ``content`` is a text or a list of parts as OpenAI, Anthropic and the
            Hugging Face templates write them.
        slots: filled with the places of pictures and videos.

    Returns:
        The turns. Calls of tools are part of the assistant's text.

    Raises:
        DataError: if a message has another form.
    """
    if not _is_list(entries) or not entries:
        raise DataError("messages must be a list of at least one message")
    is_text = len(entries) == 1 and _role_of(entries[0]) in ("assistant", PRETRAIN)
    messages: list[Message] = []
    for number, entry in enumerate(entries, start=1):
        try:
            is_call = _role_of(entry) == CALL
            message = _read_message(entry, slots, is_text=is_text)
            if is_call and messages and messages[-1].role == "assistant":
                messages[-1] = _join_call(messages[-1], message)
            else:
                messages.append(message)
        except (DataError, PromptError) as error:
            raise DataError(f"message {number}: {error}") from error
    return tuple(messages)


def read_pair(query: Any, response: Any, history: Any, slots: Slots) -> tuple[Message, ...]:
    """Read columns of question and answer.

    Args:
        query: the last question; None for a row of plain text.
        response: its answer, or a list of accepted ones of which the first is taken; None where
            there is none.
        history: pairs of question and answer before it, or None.
        slots: filled with the places of pictures and videos.

    Returns:
        The turns.

    Raises:
        DataError: if a column has another form.
    """
    messages = []
    if not _is_list(history or ()):
        raise DataError(f"history is of type {type(history).__name__}; needed: a list of pairs")
    for pair in history or ():
        if not _is_list(pair) or len(pair) != 2:
            raise DataError(f"history holds {str(pair)[:80]!r}; needed: pairs [question, answer]")
        messages.append(_user(_as_text(pair[0], "history"), slots))
        messages.append(Message("assistant", _as_text(pair[1], "history")))
    if query is not None:
        messages.append(_user(_as_text(query, "the question"), slots))
    if _is_list(response) and response:
        response = response[0]
    if response is not None:
        text = _as_text(response, "the answer")
        if query is None and not messages:
            slots.add_marks(text)
        messages.append(Message("assistant", text))
    return tuple(messages)


def prepend_marks(messages: Sequence[Message], mark: str, count: int) -> tuple[Message, ...]:
    """Put marks that a row lacks in front of its first question, or of its plain text.

    Args:
        messages: the turns.
        mark: ``<image>`` or ``<video>``.
        count: how many are missing.

    Returns:
        The turns.

    Raises:
        DataError: if there is no question to put them in front of.
    """
    role = "assistant" if is_pretraining(messages) else "user"
    for place, message in enumerate(messages):
        if message.role == role:
            marked = replace(message, text=f"{mark}\n" * count + message.text)
            return (*messages[:place], marked, *messages[place + 1 :])
    raise DataError(f"{count} {mark} marks are missing and there is no user's message for them")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        raise DataError(f"{name} is {value}; needed: a text")  # how tables write a missing one
    if isinstance(value, (int, float)) and type(value) is not bool:
        return str(value)
    raise DataError(f"{name} is of type {type(value).__name__}; needed: a text")


def _user(text: str, slots: Slots) -> Message:
    slots.add_marks(text)
    return Message("user", break_after_marks(text))


def break_after_marks(text: str) -> str:
    """End the line behind each mark that stands at the beginning of a text."""
    leading = _LEADING_MARKS.match(text)
    if leading is None:
        return text
    return _LONE_MARK.sub(r"\1\n", leading.group()) + text[leading.end() :]


def _role_of(entry: Any) -> Role | str:
    if not isinstance(entry, Mapping):
        raise DataError(f"a message is of type {type(entry).__name__}; needed: a JSON object")
    name = entry.get("role", entry.get("from"))
    if not isinstance(name, str) or name not in ROLES:
        raise DataError(f"a message has the role {name!r}; known: {', '.join(ROLES)}")
    return ROLES[name]


def _read_message(entry: Mapping[str, Any], slots: Slots, *, is_text: bool) -> Message:
    role = _role_of(entry)
    may_show = is_text or role == "user"
    thinking = entry.get("reasoning_content", entry.get("thinking"))
    content = entry.get("content", entry.get("value"))
    if _is_list(content) and role != CALL:
        text, block = _read_parts(content, slots, may_show=may_show)
        thinking = thinking if block is None else block
    else:
        text = _read_content(content, role, has_calls=bool(entry.get("tool_calls")))
        if may_show:
            slots.add_marks(text)
        if role == "user" and "role" in entry:
            text = break_after_marks(text)
    calls = entry.get("tool_calls")
    if role == "assistant" and calls:
        text = write_calls(calls if _is_list(calls) else [calls], text)
    if thinking is not None and not isinstance(thinking, str):
        raise DataError(f"thinking is of type {type(thinking).__name__}; needed: a text")
    has_loss = _read_loss(entry)
    if role in ("system", "user", "tool"):
        if has_loss:
            raise DataError(f"a message of the {role} cannot carry loss; only the assistant's can")
        return Message(role, text)  # type: ignore[arg-type]  # one of three roles
    return Message("assistant", text, thinking=thinking or None, has_loss=has_loss)


def _read_content(content: Any, role: str, *, has_calls: bool) -> str:
    if role == CALL:
        return write_calls(content if _is_list(content) else [content])
    if content is None and has_calls:
        return ""
    if isinstance(content, Mapping) and role == "tool":
        return json.dumps(content, ensure_ascii=False)
    return _as_text(content, "content")


def _join_call(turn: Message, call: Message) -> Message:
    if turn.has_loss != call.has_loss:
        raise DataError("a tool call and the turn it belongs to differ in whether they carry loss")
    return replace(turn, text="\n".join(filter(None, (turn.text, call.text))))


def _read_loss(entry: Mapping[str, Any]) -> bool | None:
    """Read ``loss`` (true or false), ``loss_scale`` or ``weight`` (0 or 1) of a message."""
    given: dict[str, bool] = {}
    for key in ("loss", "loss_scale", "weight"):
        value = entry.get(key)
        if value is None:
            continue
        if type(value) is not bool and value not in (0, 1):
            raise DataError(
                f"{key} is {value!r}; only 0 and 1 are supported: a message carries loss or not"
            )
        given[key] = bool(value)
    if len(set(given.values())) > 1:
        raise DataError(f"{' and '.join(given)} contradict each other")
    return next(iter(given.values()), None)


def _read_parts(parts: Sequence[Any], slots: Slots, *, may_show: bool) -> tuple[str, str | None]:
    """Join the parts of a message to a text with marks, and its reasoning if that is kept apart."""
    texts: list[str] = []
    thinking: str | None = None
    for part in parts:
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, Mapping):
            raise DataError(f"a part is of type {type(part).__name__}; needed: a JSON object")
        kind = _kind_of(part)
        if kind == "text":
            text = _as_text(part.get("text"), "the text of a part")
            if may_show:
                slots.add_marks(text)
            texts.append(text)
        elif kind == "thinking":
            thinking = _as_text(part.get("thinking"), "the thinking of a part")
        elif not may_show:
            raise DataError(f"only a message of the user may show {kind}s")
        else:
            getattr(slots, kind).append(_value_of(part, kind))
            texts.append(f"{_KINDS[kind]}\n")
    return "".join(texts), thinking


def _kind_of(part: Mapping[str, Any]) -> str:
    """Tell whether a part is a text, an image, a video or thinking."""
    name = part.get("type")
    if name is None:
        name = next((key for key in ("text", *_KINDS, "image_url") if key in part), None)
    kind = {
        "text": "text", "input_text": "text", "output_text": "text",
        "image": "image", "image_url": "image", "input_image": "image",
        "video": "video", "video_url": "video", "input_video": "video",
        "thinking": "thinking",
    }.get(str(name))  # fmt: skip
    if kind is None:
        raise DataError(
            f"a part has the type {name!r}; known: text, image, image_url, video, thinking"
        )
    return kind


def _value_of(part: Mapping[str, Any], kind: str) -> Any:
    """Find the picture or video of a part; none if it stands in a column."""
    source = part.get("source")
    if isinstance(source, Mapping):  # {"type": "base64", "media_type", "data"} or {"type": "url"}
        if source.get("data") is not None:
            return {"base64": source["data"]}
        return source.get("url")
    for key in (f"{kind}_url", kind, "url", "path", "bytes", "base64"):
        value = part.get(key)
        if value is not None:
            return {key: value} if key in ("bytes", "base64") else value
    return FROM_COLUMN
