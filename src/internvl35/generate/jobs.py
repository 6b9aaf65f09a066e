"""What an engine knows of a request while it is answered.

Steps are left to :mod:`internvl35.generate.engine`. No counterpart in the paper.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from internvl35.errors import InternVLError
from internvl35.generate.answers import Completion, Sample, TokenLogprob, pick_best
from internvl35.generate.detokenizer import Detokenizer
from internvl35.generate.prefix import PrefixNames
from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.sampler import SamplingRow
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.sequence import Sequence

if TYPE_CHECKING:
    from internvl35.generate.grammar import Grammar


@dataclass(eq=False)
class Job:
    """A request in work."""

    request_id: str
    """Its name."""
    request: Request
    """The prompt, with tiles as long as they are not encoded."""
    sampling: SamplingSettings
    """How its answers are chosen."""
    priority: int
    """Lower numbers go first."""
    arrival: int
    """Number of its submission."""
    salt: str
    """Only requests of equal salt share cached prefixes."""
    grammar: Grammar | None = None
    """What shape its answers must have."""
    sequences: list[Sequence] = field(default_factory=list)
    """Its answers; none before its pictures are encoded, or are to arrive."""
    token_digests: list[bytes] = field(default_factory=list)
    """Of the visual tokens that have arrived so far."""
    failure: InternVLError | None = None
    """Why none of its answers could begin."""
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """Of the prompt's tokens so far, if they were asked for."""
    started: float = field(default_factory=time.perf_counter)
    """When it was submitted."""
    seconds_to_first_token: float | None = None
    """From then to the first token."""
    seconds_to_visual_tokens: float | None = None
    """From then until all visual tokens were there; None before, and if nothing is shown."""

    @property
    def is_finished(self) -> bool:
        """Whether all of its answers have ended."""
        ended = [sequence.finish_reason is not None for sequence in self.sequences]
        return bool(ended) and all(ended)

    @property
    def is_arriving(self) -> bool:
        """Whether it is in work and waits for visual tokens."""
        waiting = [sequence.num_open is not None for sequence in self.sequences]
        return not self.is_finished and any(waiting)

    def begin(
        self,
        digests: Several[bytes],
        rules: StopRules,
        tokenizer: Any,
        *,
        num_places: int,
        block_size: int | None,
    ) -> None:
        """Begin its answers, its pictures being encoded.

        Args:
            digests: of what its pictures show, one for each; none if they are to arrive.
            rules: end tokens and tokens that are never chosen.
            tokenizer: makes text of tokens; None for no texts.
            num_places: most tokens of the prompt and an answer.
            block_size: tokens of a block of the cache; None if nothing is shared.
        """
        prompt, sampling = self.request.prompt, self.sampling
        names, is_arriving = None, self.request.arriving is not None
        if block_size is not None:
            names = PrefixNames(
                block_size, prompt.image_spans, self.token_digests if is_arriving else digests,
                self.salt, is_by_token=is_arriving,
            )  # fmt: skip
            names.extend(prompt.token_ids)
        if sampling.num_prompt_logprobs is not None:
            self.prompt_logprobs = [None]
        row_settings = sampling
        if sampling.keeps_best and sampling.num_logprobs is None:
            row_settings = replace(sampling, num_logprobs=0)
        for sample in range(sampling.num_samples):
            row = SamplingRow(
                row_settings, prompt.token_ids, sample=sample, end_token_ids=rules.end_token_ids,
                banned_token_ids=rules.banned_token_ids,
                grammar=None if self.grammar is None else self.grammar.start(),
            )  # fmt: skip
            detokenizer = None
            if tokenizer is not None:
                detokenizer = Detokenizer(
                    tokenizer, rules.end_token_ids, sampling.stop, min_tokens=sampling.min_tokens
                )
            sequence = Sequence(
                request_id=self.request_id,
                sample=sample,
                order=(self.priority, self.arrival, sample),
                token_ids=list(prompt.token_ids),
                num_prompt=len(prompt),
                max_tokens=min(sampling.max_tokens, num_places - len(prompt)),
                row=row,
                names=None if names is None else names.copy(),
                detokenizer=detokenizer,
                leader=self.sequences[0] if sample and names is not None else None,
                has_prompt_logprobs=sampling.num_prompt_logprobs is not None and not sample,
                logprobs=None if row_settings.num_logprobs is None else [],
            )
            self.sequences.append(sequence)
        if is_arriving:
            self.note_arrivals()
        elif prompt.num_tiles:
            self._note_visual_tokens()

    def note_arrivals(self) -> None:
        """Let its answers go as far as its visual tokens have come by now."""
        arriving = self.request.arriving
        assert arriving is not None
        num_ready = arriving.num_ready
        self.token_digests += arriving.digests(len(self.token_digests), num_ready)
        num_open = None
        if num_ready < arriving.num_tokens:
            num_open = self.request.prompt.image_places[num_ready]
        elif self.seconds_to_visual_tokens is None:
            self._note_visual_tokens()
        for sequence in self.sequences:
            sequence.num_open = num_open

    def _note_visual_tokens(self) -> None:
        self.seconds_to_visual_tokens = time.perf_counter() - self.started

    def note_first_token(self) -> None:
        """Stop the time to the first token."""
        self.seconds_to_first_token = time.perf_counter() - self.started

    def complete(self) -> Completion:
        """Gather what became of it, all of its answers having ended."""
        prompt = self.prompt_logprobs
        return Completion(
            request_id=self.request_id,
            request=self.request.without_pictures,
            samples=pick_best(list(map(_as_sample, self.sequences)), self.sampling),
            num_cached_tokens=min((s.num_cached for s in self.sequences), default=0),
            prompt_logprobs=None if prompt is None else tuple(prompt),
            seconds_to_first_token=self.seconds_to_first_token,
            seconds=time.perf_counter() - self.started,
            seconds_to_visual_tokens=self.seconds_to_visual_tokens,
            failure=self.failure,
        )

    def give_up(self, failure: InternVLError | None = None) -> Completion:
        """Tell that it ended before any of its answers began.

        Args:
            failure: why; None if it was cancelled.

        Returns:
            What became of it.
        """
        return Completion.of_none(
            self.request_id, self.request, self.sampling.n, failure,
            seconds=time.perf_counter() - self.started,
        )  # fmt: skip


def _as_sample(sequence: Sequence) -> Sample:
    assert sequence.finish_reason is not None
    return Sample(
        tuple(sequence.answer), "".join(sequence.texts), sequence.finish_reason,
        None if sequence.logprobs is None else tuple(sequence.logprobs), sequence.error,
    )  # fmt: skip
