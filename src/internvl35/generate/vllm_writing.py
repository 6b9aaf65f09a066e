"""Answers as vLLM writes them, from its outputs to updates and completions.

Each answer is a request of its own to vLLM. What goes to vLLM is put together in
:mod:`internvl35.generate.vllm_engine`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from internvl35.errors import InternVLError, ServerError
from internvl35.generate.answers import (
    Completion,
    FinishReason,
    Sample,
    TokenLogprob,
    Update,
    pick_best,
)
from internvl35.generate.detokenizer import Detokenizer
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.vllm_sampling import (
    read_logprob,
    read_prompt_logprobs,
    sampling_arguments,
)

_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length", "abort": "cancelled"}
"""Why an answer ended, from vLLM's words; others are errors."""


@dataclass(frozen=True)
class Asked:
    """A request in work."""

    name: str
    """By which updates call it."""
    request: Request
    """As it was asked, and later with visual tokens."""
    sampling: SamplingSettings
    """How its answers are chosen."""
    flash: FlashSettings | None = None
    """Which tiles are compressed."""
    priority: int = 0
    """Lower numbers go first."""
    cache_salt: str = ""
    """Only requests of equal salt share what is cached."""
    started: float = field(default_factory=time.perf_counter)
    """When it was asked."""
    encoded: float | None = None
    """When all its visual tokens were there."""

    def encoded_as(self, request: Request) -> Asked:
        """Go on with visual tokens, which have just come.

        Args:
            request: with them.

        Returns:
            The same, with the time.
        """
        return replace(self, request=request, encoded=time.perf_counter())

    def give_up(self, failure: InternVLError | None = None) -> Completion:
        """Tell that it ended before any of its answers began.

        Args:
            failure: why; None if it was cancelled.

        Returns:
            What became of it.
        """
        return Completion.of_none(
            self.name, self.request, self.sampling.n, failure,
            seconds=time.perf_counter() - self.started,
        )  # fmt: skip


@dataclass
class _Written:
    """One answer so far."""

    token_ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    num_cached: int = 0
    first_token: float | None = None
    reason: FinishReason | None = None
    error: str | None = None

    def as_sample(self) -> Sample:
        assert self.reason is not None
        return Sample(
            tuple(self.token_ids), "".join(self.texts), self.reason, tuple(self.logprobs),
            self.error,
        )  # fmt: skip


class AnswerWriter:
    """Has vLLM write the answers to requests.

    Args:
        llm: vLLM's ``AsyncLLM``.
        tokenizer: makes text of tokens.
        rules: end tokens and tokens that are never chosen.
        num_rows: rows of the embedding.
    """

    def __init__(self, llm: Any, tokenizer: Any, rules: StopRules, num_rows: int) -> None:
        """Keep what all answers share."""
        self._llm = llm
        self._tokenizer = tokenizer
        self._rules = rules
        self._num_rows = num_rows

    async def write(self, asked: Asked, prompt: Any, tell: Callable[[Update], None]) -> Completion:
        """Write the answers to a request side by side.

        Args:
            asked: the request, its pictures encoded.
            prompt: the same as vLLM takes it.
            tell: takes updates, the last of which carries the completion.

        Returns:
            The whole.

        Raises:
            ServerError: if vLLM has died.
        """
        keeps_best = asked.sampling.keeps_best
        answers = [_Written() for _ in range(asked.sampling.num_samples)]
        tasks = [
            asyncio.ensure_future(self._write_one(asked, prompt, sample, answer, tell))
            for sample, answer in enumerate(answers)
        ]
        try:
            for number, task in enumerate(asyncio.as_completed(tasks), start=1):
                last = await task
                if number < len(tasks):
                    if not keeps_best:
                        tell(last)
                    continue
                whole = _complete(asked, answers)
                told = whole.as_updates() if keeps_best else [replace(last, completion=whole)]
                for update in told:
                    tell(update)
                return whole
        finally:
            for task in tasks:
                task.cancel()
        raise AssertionError("a request has at least one answer")

    async def _write_one(
        self,
        asked: Asked,
        prompt: Any,
        sample: int,
        answer: _Written,
        tell: Callable[[Update], None],
    ) -> Update:
        """Write one answer; its last update is not told but returned."""
        arguments = sampling_arguments(asked.sampling, self._rules, self._num_rows, sample=sample)
        detokenizer = Detokenizer(
            self._tokenizer, self._rules.end_token_ids, asked.sampling.stop,
            min_tokens=asked.sampling.min_tokens,
        )  # fmt: skip
        try:
            async for output in self._outputs(asked, prompt, sample, arguments):
                _note(output, asked, answer)
                update = _read(output.outputs[0], asked, sample, answer, detokenizer)
                if update.finish_reason is not None:
                    return update
                if not asked.sampling.keeps_best:
                    tell(update)
            answer.error = "vLLM ended without telling why"
        except Exception as error:  # vLLM's errors, of this request or of all
            if self._llm.errored:
                raise ServerError("vLLM has died; its own messages above say why") from error
            answer.error = f"vLLM does not answer: {error}"
        answer.reason = "error"
        return Update(asked.name, sample, finish_reason="error", error=answer.error)

    async def _outputs(
        self, asked: Asked, prompt: Any, sample: int, arguments: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Ask vLLM; the request ends with the iterator."""
        outputs = self._llm.generate(
            prompt, _as_sampling_params(arguments), f"{asked.name}/{sample}",
            priority=asked.priority,
        )  # fmt: skip
        try:
            async for output in outputs:
                yield output
        finally:
            await outputs.aclose()


def _as_sampling_params(arguments: dict[str, Any]) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    structure = arguments.get("structured_outputs")
    if structure is not None:
        arguments = arguments | {"structured_outputs": StructuredOutputsParams(**structure)}
    return SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA)


def _note(output: Any, asked: Asked, answer: _Written) -> None:
    """Keep what vLLM tells beside tokens."""
    if answer.first_token is None and output.outputs[0].token_ids:
        answer.first_token = time.perf_counter()
    answer.num_cached = output.num_cached_tokens or answer.num_cached
    wanted = asked.sampling.num_prompt_logprobs
    if wanted is not None and output.prompt_logprobs:
        prompt = asked.request.prompt
        answer.prompt_logprobs = read_prompt_logprobs(
            output.prompt_logprobs, prompt.token_ids, set(prompt.image_places), wanted
        )


def _read(
    part: Any, asked: Asked, sample: int, answer: _Written, detokenizer: Detokenizer
) -> Update:
    """Add what is new to an answer; tokens behind a stop text are dropped."""
    text, is_stopped = "", False
    new: list[int] = []
    for token_id in part.token_ids:
        new.append(token_id)
        more, is_stopped = detokenizer.push([token_id])
        text += more
        is_stopped = is_stopped and len(answer.token_ids) + len(new) >= asked.sampling.min_tokens
        if is_stopped:
            break
    token_ids = tuple(new)
    reason = "stop" if is_stopped else part.finish_reason
    if reason is not None:
        text += detokenizer.flush()
        answer.reason = _REASONS.get(reason, "error")
        if answer.reason == "error":
            answer.error = f"vLLM ended the answer: {reason}"
    num_top = asked.sampling.num_logprobs
    logprobs: tuple[TokenLogprob, ...] = ()
    if part.logprobs is not None:
        pairs = zip(part.logprobs[: len(new)], token_ids, strict=True)
        logprobs = tuple(read_logprob(found, token_id, num_top or 0) for found, token_id in pairs)
    answer.token_ids += token_ids
    answer.texts.append(text)
    answer.logprobs += logprobs
    return Update(
        asked.name, sample, token_ids, text, None if num_top is None else logprobs,
        answer.reason, answer.error,
    )  # fmt: skip


def _complete(asked: Asked, answers: list[_Written]) -> Completion:
    times = [answer.first_token for answer in answers if answer.first_token is not None]
    return Completion(
        request_id=asked.name,
        request=asked.request.without_pictures,
        samples=pick_best([answer.as_sample() for answer in answers], asked.sampling),
        num_cached_tokens=min(answer.num_cached for answer in answers),
        prompt_logprobs=answers[0].prompt_logprobs,
        seconds_to_first_token=min(times) - asked.started if times else None,
        seconds=time.perf_counter() - asked.started,
        seconds_to_visual_tokens=None if asked.encoded is None else asked.encoded - asked.started,
    )
