"""Takes an answer apart while it is written: reasoning, text, calls of tools.

Writing the parts down is left to the formats of the routes. No counterpart in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from internvl35.data.thinking import split_thinking
from internvl35.data.tool_calls import ToolCall
from internvl35.replies import new_pieces
from internvl35.serve.tools import ToolUse

AnswerPiece: TypeAlias = tuple[str, bool] | ToolCall
"""Text, and whether it belongs to the reasoning; or a call."""


@dataclass(frozen=True)
class Answer:
    """An answer, taken apart."""

    thinking: str | None
    """Its reasoning; None if there is none."""
    text: str
    """What it says beside calls."""
    calls: tuple[ToolCall, ...] = ()
    """The calls that it makes."""

    def tell_reason(self, reason: str | None) -> str | None:
        """Say in OpenAI's words why it ended."""
        return "tool_calls" if self.calls and reason == "stop" else reason


def read_answer(text: str, tools: ToolUse | None = None) -> Answer:
    """Take a whole answer apart.

    Args:
        text: as it was written.
        tools: that it may call.

    Returns:
        Its parts.
    """
    pieces = AnswerPieces(tools)
    pieces.add(text, is_last=True)
    return pieces.whole()


class AnswerPieces:
    """Takes one answer apart while it is written.

    Args:
        tools: that it may call.
    """

    def __init__(self, tools: ToolUse | None = None) -> None:
        """Begin with what the prompt wrote of the answer."""
        self._tools = tools
        self._text = "" if tools is None else tools.prefix
        self._shown = {True: "", False: ""}
        self._calls = None if tools is None else tools.start()

    def add(self, text: str, *, is_last: bool) -> list[AnswerPiece]:
        """Take in what was written.

        Args:
            text: new text.
            is_last: whether nothing follows.

        Returns:
            What can be told now.
        """
        self._text += text
        if is_last:
            self._text += "" if self._tools is None else self._tools.suffix
            thinking, answer = self._split()
            parts = ((thinking or "", True), (answer, False))
            pieces = [(part[len(self._shown[kind]) :], kind) for part, kind in parts]
        else:
            pieces = list(new_pieces(self._text, self._shown))
        if self._calls is None:
            return [piece for piece in pieces if piece[0]]
        told: list[AnswerPiece] = [piece for piece in pieces if piece[0] and piece[1]]
        said = "".join(text for text, is_thinking in pieces if not is_thinking)
        for part in self._calls.add(said, is_last=is_last):
            told.append((part, False) if isinstance(part, str) else part)
        return told

    def whole(self) -> Answer:
        """Tell the answer as far as it is written."""
        thinking, answer = self._split()
        if self._tools is None:
            return Answer(thinking, answer)
        parts = self._tools.start().add(answer, is_last=True)
        texts = (part for part in parts if isinstance(part, str))
        calls = (part for part in parts if isinstance(part, ToolCall))
        return Answer(thinking, "".join(texts), tuple(calls))

    def _split(self) -> tuple[str | None, str]:
        thinking, answer = split_thinking(self._text)
        return thinking, answer.strip()
