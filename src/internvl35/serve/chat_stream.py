"""A chat-completions answer in parts, as chunks of OpenAI's API.

Joined, the parts of a choice are what :mod:`internvl35.serve.chat_answer` writes in one piece. No
counterpart in the paper.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from internvl35.data.thinking import split_thinking
from internvl35.generate.answers import Completion, Update
from internvl35.replies import new_pieces
from internvl35.serve.chat_answer import AnswerFormat


class AnswerPieces:
    """Takes reasoning and answer apart while they are written."""

    def __init__(self) -> None:
        """Begin with nothing written."""
        self._text = ""
        self._shown = {True: "", False: ""}

    def add(self, text: str, *, is_last: bool) -> list[tuple[str, bool]]:
        """Take in what was written.

        Args:
            text: new text.
            is_last: whether nothing follows.

        Returns:
            What can be told now, and whether each part belongs to the reasoning.
        """
        self._text += text
        if not is_last:
            return list(new_pieces(self._text, self._shown))
        thinking, answer = self.whole()
        parts = ((thinking or "", True), (answer, False))
        rest = [(part[len(self._shown[is_thinking]) :], is_thinking) for part, is_thinking in parts]
        return [one for one in rest if one[0]]

    def whole(self) -> tuple[str | None, str]:
        """Tell reasoning and answer as far as they are written."""
        thinking, answer = split_thinking(self._text)
        return thinking, answer.strip()


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
        self._choices: dict[int, AnswerPieces] = {}

    def add(self, update: Update) -> Iterator[Mapping[str, Any]]:
        """Make chunks of an update.

        Args:
            update: of any of the answers.

        Yields:
            Chunks.
        """
        place = update.sample
        if place not in self._choices:
            self._choices[place] = AnswerPieces()
            yield self._chunk(place, {"role": "assistant", "content": ""})
        is_last = update.finish_reason is not None
        pieces = self._choices[place].add(update.text, is_last=is_last)
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
