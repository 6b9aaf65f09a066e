"""What comes back from an engine: updates while an answer is written, and the whole of it.

Plain records; text is made of tokens in :mod:`internvl35.generate.detokenizer`. No counterpart in
the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from internvl35.errors import InternVLError
from internvl35.generate.request import Request, RoutedPrompt
from internvl35.generate.sampling import SamplingSettings

FinishReason: TypeAlias = Literal["stop", "length", "cancelled", "error"]
"""Why an answer ended: an end token or stop text, ``max_tokens``, its reader, or a failure."""


@dataclass(frozen=True)
class TokenLogprob:
    """How likely a token was."""

    token_id: int
    """The token."""
    logprob: float
    """Natural logarithm of its probability, before temperature, penalties and bans."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens at its place with theirs, likeliest first, as many as were asked for."""


@dataclass(frozen=True)
class Sample:
    """One whole answer."""

    token_ids: tuple[int, ...]
    """As chosen, end token included."""
    text: str
    """Without end token and stop text; empty if the engine has no tokenizer."""
    finish_reason: FinishReason
    """Why it ended."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of its tokens, if they were asked for."""
    error: str | None = None
    """What went wrong, if the reason is ``error``."""


@dataclass(frozen=True)
class Completion:
    """What became of a request."""

    request_id: str
    """Of the request."""
    request: RoutedPrompt
    """As it was answered, without its pictures."""
    samples: tuple[Sample, ...]
    """Its ``n`` answers; with ``best_of``, the likeliest first."""
    num_cached_tokens: int
    """Prompt tokens that had not to be computed."""
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    """Of the prompt's tokens, None for the first and for places of pictures; None unless asked for.
    """
    seconds_to_first_token: float | None = None
    """From the submission to the first token."""
    seconds: float = 0.0
    """From the submission to the end of the last answer."""
    seconds_to_visual_tokens: float | None = None
    """From the submission until all visual tokens were there; None if nothing is shown."""
    failure: InternVLError | None = None
    """Why no answer was begun, if none was."""

    @classmethod
    def of_none(
        cls,
        request_id: str,
        request: Request,
        num_samples: int,
        failure: InternVLError | None,
        *,
        seconds: float = 0.0,
    ) -> Completion:
        """Tell that a request ended before any of its answers began.

        Args:
            request_id: its name.
            request: as far as it came.
            num_samples: answers that were asked for.
            failure: why; None if it was cancelled.
            seconds: from its submission.

        Returns:
            What became of it.
        """
        reason: FinishReason = "cancelled" if failure is None else "error"
        sample = Sample((), "", reason, None, None if failure is None else str(failure))
        return cls(
            request_id, request.without_pictures, (sample,) * num_samples, 0,
            seconds=seconds, failure=failure,
        )  # fmt: skip

    def as_updates(self) -> list[Update]:
        """Tell each answer at once, as is done where none could be told before."""
        last = len(self.samples) - 1
        return [
            Update(
                self.request_id, number, sample.token_ids, sample.text, sample.logprobs,
                sample.finish_reason, sample.error, self if number == last else None,
            )
            for number, sample in enumerate(self.samples)
        ]  # fmt: skip


@dataclass(frozen=True)
class Update:
    """What one step added to one answer."""

    request_id: str
    """Of the request."""
    sample: int
    """Which of its ``n`` answers, from 0."""
    token_ids: tuple[int, ...] = ()
    """New tokens, end token included."""
    text: str = ""
    """New text; what might still become a stop text or half a character is held back."""
    logprobs: tuple[TokenLogprob, ...] | None = None
    """Of the new tokens, if they were asked for."""
    finish_reason: FinishReason | None = None
    """Set in the last update of an answer."""
    error: str | None = None
    """What went wrong, if the reason is ``error``."""
    completion: Completion | None = None
    """The whole, in the very last update of a request."""


def pick_best(samples: Sequence[Sample], sampling: SamplingSettings) -> tuple[Sample, ...]:
    """Choose the answers that are returned from those that were written.

    Args:
        samples: all of them, with log-probabilities if some are to be left out.
        sampling: how many are wanted, and whether with log-probabilities.

    Returns:
        The ``n`` likeliest, likeliest first, or all in their order; those that failed come last.
    """
    if sampling.keeps_best:
        samples = sorted(samples, key=_likelihood, reverse=True)[: sampling.n]
    if sampling.num_logprobs is None:
        samples = [replace(sample, logprobs=None) for sample in samples]
    return tuple(samples)


def _likelihood(sample: Sample) -> float:
    """Sum of the log-probabilities of an answer."""
    if sample.error is not None or not sample.logprobs:
        return float("-inf")
    return sum(found.logprob for found in sample.logprobs)
