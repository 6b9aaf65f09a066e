"""What comes back for a chat-completions body: answers, counts, log-probabilities, or an error.

Reading bodies is left to :mod:`internvl35.serve.chat_body`. Reasoning stands in
``reasoning_content``, apart from the answer. No counterpart in the paper.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from internvl35.data.tool_calls import ToolCall
from internvl35.errors import InternVLError
from internvl35.generate.answers import Completion, Sample, TokenLogprob
from internvl35.serve.answer_pieces import Answer, read_answer
from internvl35.serve.fields import BodyError
from internvl35.serve.tools import ToolUse

INVALID = "invalid_request_error"
"""Type of an error that the sender can put right."""

INTERNAL = "internal_error"
"""Type of an error that is ours."""

_LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON has no number for."""


@dataclass(frozen=True)
class AnswerFormat:
    """Writes answers of one model."""

    tokenizer: Any = field(repr=False)
    """Of the model."""
    end_token_ids: tuple[int, ...]
    """Tokens that end an answer and are not part of it."""
    model: str
    """Name that answers carry."""
    fingerprint: str | None = None
    """Says which settings answered, as ``system_fingerprint``."""
    tokens_per_tile: int | None = None
    """Visual tokens of a tile that is not compressed; None where they are not told."""

    def write(
        self, completion: Completion, request_id: str, created: int, tools: ToolUse | None = None
    ) -> dict[str, Any]:
        """Write the body of an answer.

        Args:
            completion: the answers to one request, none of which failed.
            request_id: what the answer is called.
            created: seconds since 1970.
            tools: that could be called.

        Returns:
            JSON values.
        """
        return {
            "id": request_id,
            "object": "chat.completion",
            "created": created,
            "model": self.model,
            "choices": [
                self._choice(place, sample, read_answer(sample.text, tools), request_id)
                for place, sample in enumerate(completion.samples)
            ],
            "usage": self.describe_usage(completion),
            "system_fingerprint": self.fingerprint,
        }

    def describe_usage(self, completion: Completion) -> dict[str, Any]:
        """Count tokens.

        Args:
            completion: the answers to one request.

        Returns:
            JSON values.
        """
        num_prompt = len(completion.request.prompt)
        num_new = sum(len(sample.token_ids) for sample in completion.samples)
        details = {"cached_tokens": completion.num_cached_tokens}
        spans = completion.request.prompt.image_spans
        if spans:
            details["image_tokens"] = sum(span.num_tokens for span in spans)
        if spans and self.tokens_per_tile is not None:
            num_tiles = completion.request.prompt.num_tiles
            details["image_tokens_before_compression"] = num_tiles * self.tokens_per_tile
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
            "prompt_tokens_details": details,
        }

    def describe_logprobs(
        self, logprobs: Sequence[TokenLogprob] | None
    ) -> dict[str, list[dict[str, Any]] | None] | None:
        """Write how likely tokens were, end tokens left out.

        Args:
            logprobs: of tokens of an answer; None if they were not asked for.

        Returns:
            JSON values.
        """
        if logprobs is None:
            return None
        shown = [one for one in logprobs if one.token_id not in self.end_token_ids]
        return {"content": [self._logprob(one) for one in shown], "refusal": None}

    def _choice(
        self, place: int, sample: Sample, answer: Answer, request_id: str
    ) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.thinking is not None:
            message["reasoning_content"] = answer.thinking
        if answer.calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [
                write_call(call, name_call(request_id, place, number))
                for number, call in enumerate(answer.calls)
            ]
        return {
            "index": place,
            "message": message,
            "logprobs": self.describe_logprobs(sample.logprobs),
            "finish_reason": answer.tell_reason(sample.finish_reason),
        }

    def _logprob(self, one: TokenLogprob) -> dict[str, Any]:
        top = [self._token(token_id, value) for token_id, value in one.top]
        return {**self._token(one.token_id, one.logprob), "top_logprobs": top}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = token_bytes(self.tokenizer, token_id)
        return {
            "token": data.decode("utf-8", "replace"),
            "logprob": logprob if math.isfinite(logprob) else _LEAST_LOGPROB,
            "bytes": list(data),
        }


def write_call(call: ToolCall, name: str) -> dict[str, Any]:
    """Write a call of a tool.

    Args:
        call: the call.
        name: by which a result calls it.

    Returns:
        JSON values.
    """
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": name, "type": "function", "function": function}


def name_call(request_id: str, place: int, number: int) -> str:
    """Name a call of a tool, the same in one piece as in parts.

    Args:
        request_id: what the answer is called.
        place: of the choice.
        number: of the call among those of the choice.

    Returns:
        A name that no other call has.
    """
    return f"call_{request_id.rpartition('-')[2]}_{place}_{number}"


def find_failure(samples: Sequence[Sample]) -> str | None:
    """Look for an answer that failed.

    Args:
        samples: the answers to one request.

    Returns:
        What went wrong with the first that did; None if all are whole.
    """
    for sample in samples:
        if sample.finish_reason in ("error", "cancelled"):
            return sample.error or f"the answer ended with the reason {sample.finish_reason}"
    return None


def write_error(message: str, kind: str = INVALID, param: str | None = None) -> dict[str, Any]:
    """Write the body of an error.

    Args:
        message: what is wrong and what to do.
        kind: whose mistake it is.
        param: path of the field that is wrong.

    Returns:
        JSON values.
    """
    return {"error": {"message": message, "type": kind, "param": param, "code": None}}


def describe_error(error: InternVLError) -> dict[str, Any]:
    """Write the body of an error that a caller can put right.

    Args:
        error: what was raised.

    Returns:
        JSON values.
    """
    return write_error(str(error), param=error.param if isinstance(error, BodyError) else None)


def token_bytes(tokenizer: Any, token_id: int) -> bytes:
    """Tell which bytes a token of a byte-level vocabulary stands for.

    Args:
        tokenizer: a transformers tokenizer.
        token_id: the token.

    Returns:
        Its bytes; for added tokens those of their name, none for ids without a token.
    """
    name = tokenizer.convert_ids_to_tokens(token_id)
    if name is None:
        return b""
    table = _bytes_of_characters()
    if token_id in tokenizer.added_tokens_decoder or any(letter not in table for letter in name):
        return str(name).encode("utf-8", "replace")
    return bytes(table[letter] for letter in name)


@cache
def _bytes_of_characters() -> dict[str, int]:
    """The characters by which byte-level vocabularies spell bytes.

    Printable ones of Latin-1 stand for themselves, the others for those from 256 on, in order.
    """
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {
        chr(256 + place): byte for place, byte in enumerate(others)
    }
