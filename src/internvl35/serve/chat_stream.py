"""A chat-completions answer in parts, as chunks of OpenAI's API.

Joined, the parts of a choice are what :mod:`internvl35.serve.chat_answer` writes in one piece. No
counterpart in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from internvl35.data.tool_calls import ToolCall
from internvl35.generate.answers import Completion, Update
from internvl35.serve.answer_pieces import AnswerPiece, AnswerPieces
from internvl35.serve.chat_answer import AnswerFormat, name_call, write_call
from internvl35.serve.tools import ToolUse


class ChatStream:
    """Makes chunks of updates.

    Args:
        form: writes tokens and counts.
        name: of the answer.
        created: seconds since 1970.
        has_usage: whether a last chunk tells the counts.
        tools: that may be called.
    """

    def __init__(
        self,
        form: AnswerFormat,
        name: str,
        created: int,
        *,
        has_usage: bool,
        tools: ToolUse | None = None,
    ) -> None:
        """Begin without a choice."""
        self._form, self._has_usage, self._tools = form, has_usage, tools
        self._name = name
        self._frame = {
            "id": name, "object": "chat.completion.chunk", "created": created, "model": form.model,
            "system_fingerprint": form.fingerprint,
        }  # fmt: skip
        self._choices: dict[int, AnswerPieces] = {}
        self._num_calls: Counter[int] = Counter()

    def add(self, update: Update) -> Iterator[Mapping[str, Any]]:
        """Make chunks of an update.

        Args:
            update: of any of the answers.

        Yields:
            Chunks.
        """
        place = update.sample
        if place not in self._choices:
            self._choices[place] = AnswerPieces(self._tools)
            yield self._chunk(place, {"role": "assistant", "content": ""})
        is_last = update.finish_reason is not None
        pieces = self._choices[place].add(update.text, is_last=is_last)
        logprobs = self._form.describe_logprobs(update.logprobs)
        if logprobs is not None and logprobs["content"] and not pieces:
            pieces = [("", False)]
        for piece in pieces:
            yield self._chunk(place, self._write(place, piece), logprobs)
            logprobs = None  # all of them come with the first part
        if is_last:
            reason = self._choices[place].whole().tell_reason(update.finish_reason)
            yield self._chunk(place, {}, reason=reason)

    def _write(self, place: int, piece: AnswerPiece) -> dict[str, Any]:
        if not isinstance(piece, ToolCall):
            text, is_thinking = piece
            return {"reasoning_content" if is_thinking else "content": text}
        number = self._num_calls[place]
        self._num_calls[place] += 1
        call = write_call(piece, name_call(self._name, place, number))
        return {"tool_calls": [{"index": number, **call}]}

    def end(self, completion: Completion) -> Iterator[Mapping[str, Any] | str]:
        """Make what follows the last choice.

        Args:
            completion: the whole.

        Yields:
            The counts, if they are wanted, and the end mark.
        """
        if self._has_usage:
            usage = self._form.describe_usage(completion)
            yield {**self._frame, "choices": [], "usage": usage}
        yield "[DONE]"

    def _chunk(
        self,
        place: int,
        delta: Mapping[str, Any],
        logprobs: Mapping[str, Any] | None = None,
        reason: str | None = None,
    ) -> dict[str, Any]:
        choice = {"index": place, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        usage = {"usage": None} if self._has_usage else {}
        return {**self._frame, "choices": [choice], **usage}
