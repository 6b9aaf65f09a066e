"""A chat-completions answer in parts, as chunks of OpenAI's API.

Joined, the parts of a choice are what :mod:`internvl35.serve.chat_answer` writes in one piece. No
counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from internvl35.data.thinking import split_thinking
from internvl35.generate.answers import Completion, Update
from internvl35.replies import new_pieces
from internvl35.serve.chat_answer import AnswerFormat


@dataclass
class _Choice:
    text: str = ""
    shown: dict[bool, str] = field(default_factory=lambda: {True: "", False: ""})


class ChatStream:
    """Makes chunks of updates.

    Args:
        form: writes tokens and counts.
        name: of the answer.
        created: seconds since 1970.
        has_usage: whether a last chunk tells the counts.
    """

    def __init__(self, form: AnswerFormat, name: str, created: int, *, has_usage: bool) -> None:
        """Begin without a choice."""
        self._form, self._has_usage = form, has_usage
        self._frame = {
            "id": name, "object": "chat.completion.chunk", "created": created, "model": form.model,
            "system_fingerprint": form.fingerprint,
        }  # fmt: skip
        self._choices: dict[int, _Choice] = {}

    def add(self, update: Update) -> Iterator[Mapping[str, Any]]:
        """Make chunks of an update.

        Args:
            update: of any of the answers.

        Yields:
            Chunks.
        """
        place = update.sample
        if place not in self._choices:
            self._choices[place] = _Choice()
            yield self._chunk(place, {"role": "assistant", "content": ""})
        choice = self._choices[place]
        choice.text += update.text
        is_last = update.finish_reason is not None
        pieces = list(_rest(choice) if is_last else new_pieces(choice.text, choice.shown))
        logprobs = self._form.describe_logprobs(update.logprobs)
        if logprobs is not None and logprobs["content"] and not pieces:
            pieces = [("", False)]
        for text, is_thinking in pieces:
            name = "reasoning_content" if is_thinking else "content"
            yield self._chunk(place, {name: text}, logprobs)
            logprobs = None  # all of them come with the first part
        if is_last:
            yield self._chunk(place, {}, reason=update.finish_reason)

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


def _rest(choice: _Choice) -> Iterator[tuple[str, bool]]:
    """Tell what was held back of an answer that has ended."""
    thinking, answer = split_thinking(choice.text)
    for is_thinking, whole in ((True, thinking or ""), (False, answer.strip())):
        if rest := whole[len(choice.shown[is_thinking]) :]:
            yield rest, is_thinking
