"""Many generations at once: each step encodes pictures, computes prompts and writes answers.

Requests come and go at any time; each gets the answer that it would get alone. A step encodes some
tiles, lets the scheduler choose tokens under a budget, computes them in one pass and hands out what
is new. Who calls the steps is left to :mod:`internvl35.generate.engine_thread`. No counterpart in
the paper.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Sequence as Several
from dataclasses import replace
from typing import Any

from internvl35.errors import BusyError, InternVLError, PromptError, ServerError
from internvl35.generate.admission import Limits, check_length, check_request
from internvl35.generate.answers import Completion, FinishReason, TokenLogprob, Update
from internvl35.generate.blocks import BlockPool
from internvl35.generate.cache_size import choose_num_blocks
from internvl35.generate.decoder import LanguageDecoder
from internvl35.generate.encoders import IDLE_S
from internvl35.generate.engine_settings import EngineSettings
from internvl35.generate.engines import one_each
from internvl35.generate.flash import FlashSettings
from internvl35.generate.grammar import Grammar, GrammarCompiler
from internvl35.generate.jobs import Job
from internvl35.generate.replay import choose_record
from internvl35.generate.request import Request
from internvl35.generate.rules import StopRules
from internvl35.generate.sampler import Choice, Sampler
from internvl35.generate.sampling import SamplingSettings
from internvl35.generate.scheduler import Scheduler
from internvl35.generate.sequence import Sequence
from internvl35.generate.side_stream import SideThread
from internvl35.generate.steps import StepComputer
from internvl35.generate.vision import EncodedRequest, VisionEncoder, VisionStage
from internvl35.model.composite import VisionLanguageModel


class Engine:
    """Answers requests step by step; not for several threads at once.

    Args:
        model: in eval mode.
        rules: end tokens and tokens that are never chosen.
        tokenizer: makes text of tokens; without it there are no texts, stop texts and structures.
        settings: how much is done at once.
        encoder: makes visual tokens of tiles; the model's own by default.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        rules: StopRules,
        *,
        tokenizer: Any = None,
        settings: EngineSettings | None = None,
        encoder: VisionEncoder | None = None,
    ) -> None:
        """Lay out the cache; memory is taken when it is first used."""
        self.settings = settings = settings or EngineSettings()
        self.model = model
        self.rules = rules
        self.tokenizer = tokenizer
        is_gpu = model.input_device.type != "cpu"
        max_sequences = settings.max_sequences or (256 if is_gpu else 64)
        max_batch_tokens = settings.max_batch_tokens or (8192 if is_gpu else 512)
        size = settings.block_size
        num_blocks = choose_num_blocks(
            model, size, settings.cache_gib, settings.max_cache_tokens, max_sequences
        )
        self.num_cache_tokens = num_blocks * size
        max_batch_tokens = max(max_batch_tokens, max_sequences + 1)
        self.scheduler = Scheduler(BlockPool(num_blocks), size, max_batch_tokens, max_sequences)
        if encoder is None:
            encoder = VisionStage(model, settings.vision, None if is_gpu else SideThread())
        self.vision: VisionEncoder = encoder
        record = choose_record(model, settings.replays_steps)
        self._decoder = LanguageDecoder(model, num_blocks, size, max_sequences, record)
        self._num_rows = int(model.input_weight.shape[0])
        self._sampler = Sampler(self._num_rows)
        self._steps = StepComputer(self._decoder, self._sampler, self.scheduler)
        self._grammars = None
        if tokenizer is not None:
            self._grammars = GrammarCompiler(tokenizer, self._num_rows, rules.end_token_ids)
        self._jobs: dict[str, Job] = {}
        self._num_answers = 0  # of all jobs
        self._arriving: list[Job] = []  # whose visual tokens are not all there
        self._news: list[Update] = []
        self._is_idle = False  # whether the last step computed nothing
        self._arrivals = itertools.count()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._jobs or self._news)

    @property
    def is_waiting(self) -> bool:
        """Whether there is work, but none that a step could do before pictures are encoded."""
        return bool(self._jobs) and not self._news and self._is_idle

    @property
    def num_requests(self) -> int:
        """Requests that have not ended."""
        return len(self._jobs)

    def submit(
        self,
        request: Request,
        sampling: SamplingSettings,
        *,
        request_id: str | None = None,
        priority: int = 0,
        flash: FlashSettings | None = None,
        cache_salt: str = "",
        grammar: Grammar | None = None,
    ) -> str:
        """Take a request on.

        Args:
            request: not routed yet; pictures as tiles, or as visual tokens computed before.
            sampling: how its answers are chosen; ``max_tokens`` is cut to what model and cache
                hold.
            request_id: its name; None for a new one.
            priority: lower numbers go first.
            flash: which tiles are compressed; None as the checkpoint says.
            cache_salt: only requests of equal salt share cached prefixes.
            grammar: what :meth:`prepare` made of ``sampling``; None to make it now.

        Returns:
            The name by which updates call it.

        Raises:
            ConfigError: if the settings do not fit the checkpoint.
            PromptError: if ids are out of range, or the prompt is too long.
            BusyError: if too many answers are in work.
            ServerError: if the name is taken.
        """
        if not self._has_room(sampling):
            raise BusyError(
                f"{self._num_answers} answers are in work; at most {self.settings.max_waiting} may "
                "be; try again later"
            )
        number, name = self._name(request_id)
        check_request(request, sampling, flash, self.model.config, self._limits)
        self._sampler.check(sampling)
        grammar = grammar or self.prepare(sampling)
        job = Job(name, request, sampling, priority, number, cache_salt, grammar)
        self._jobs[name] = job
        self._num_answers += sampling.num_samples
        try:
            if request.pixel_values is None and request.image_features is None:
                self._begin(job, EncodedRequest(request, ()))
            else:
                self.vision.submit(name, request, flash, cache_salt=cache_salt, priority=priority)
        except BaseException:
            self._forget_job(job)
            raise
        return name

    def _has_room(self, sampling: SamplingSettings) -> bool:
        """Whether answers fit beside those in work; alone, any number does."""
        num_answers = self._num_answers + sampling.num_samples
        return not self._jobs or num_answers <= self.settings.max_waiting

    def _forget_job(self, job: Job) -> None:
        if self._jobs.pop(job.request_id, None) is not None:
            self._num_answers -= job.sampling.num_samples

    def _name(self, request_id: str | None) -> tuple[int, str]:
        """Count a request and name it; a caller's own names may look like ours."""
        while True:
            number = next(self._arrivals)
            name = f"request-{number}" if request_id is None else request_id
            if name not in self._jobs:
                return number, name
            if request_id is not None:
                raise ServerError(f"a request {name!r} is in work already; give each its own name")

    def cancel(self, request_id: str) -> bool:
        """End a request; its last update comes with the next step.

        Args:
            request_id: its name.

        Returns:
            Whether there was such a request in work.
        """
        job = self._jobs.get(request_id)
        if job is None:
            return False
        if not job.sequences:
            self.vision.cancel(request_id)
            self._give_up(job)
            return True
        for sequence in job.sequences:
            if sequence.finish_reason is None:
                self._news += self._end(
                    job, sequence, "cancelled", Update(request_id, sequence.sample)
                )
        return True

    def drop(self, request_id: str) -> None:
        """End a request of which nobody wants to hear any more, not even that it ended."""
        self.cancel(request_id)
        self._news = [update for update in self._news if update.request_id != request_id]

    def step(self) -> list[Update]:
        """Encode some tiles, compute some tokens.

        Returns:
            What is new; empty if nothing came to an end and no token was written.
        """
        limit = self.settings.tiles_beside_answers if self.scheduler.running else None
        if len(self.scheduler.waiting) >= self.scheduler.max_sequences:
            limit = 0  # else the visual tokens of all who wait would be held at once
        for name, found in self.vision.step(limit, num_answers=len(self.scheduler.running)):
            job = self._jobs.get(name)
            if job is None:
                continue
            if isinstance(found, InternVLError):
                self._give_up(job, found)
            else:
                self._begin(job, found)
        self._note_arrivals()
        works = self.scheduler.plan()
        self._is_idle = not works
        for sequence, choice in self._steps.run(works, self._jobs) if works else ():
            if choice.error is None:
                self._take(sequence, choice)
            else:
                self._fail_sequence(sequence, choice.error)
        if self.settings.is_checked:
            self.scheduler.check()
        news, self._news = self._news, []
        return news

    def generate(
        self,
        requests: Several[Request],
        sampling: SamplingSettings | Several[SamplingSettings],
        *,
        flash: FlashSettings | Several[FlashSettings | None] | None = None,
    ) -> list[Completion]:
        """Answer requests and wait for all of them; see ``GenerationEngine.generate``."""
        each, choices = one_each(sampling, len(requests)), one_each(flash, len(requests))
        todo = deque(enumerate(zip(requests, each, choices, strict=True)))
        found: dict[int, Completion] = {}
        places: dict[str, int] = {}
        others: list[Update] = []  # to requests that were submitted before
        while len(found) < len(requests):
            while todo and self._has_room(todo[0][1][1]):
                place, (request, own, choice) = todo.popleft()
                try:
                    places[self.submit(request, own, flash=choice)] = place
                except InternVLError as error:
                    found[place] = Completion.of_none("", request, own.n, error)
            if self.is_waiting:
                time.sleep(IDLE_S)
            for update in self.step():
                if update.request_id not in places:
                    others.append(update)
                elif update.completion is not None:
                    found[places[update.request_id]] = update.completion
        self._news = others + self._news
        return [found[place] for place in range(len(requests))]

    def forget(self) -> None:
        """Give up all that was kept, as after the weights have changed; only between requests."""
        assert not self._jobs, "requests are in work"
        self.scheduler.pool.forget()
        self.vision.forget_pictures()

    @property
    def _limits(self) -> Limits:
        positions = int(self.model.config.text_config.max_position_embeddings)
        num_places = min(positions, self.num_cache_tokens)
        longest = min(num_places - 1, self.settings.max_prompt_tokens or num_places)
        return Limits(self._num_rows, num_places, longest, self.tokenizer is not None)

    def prepare(self, sampling: SamplingSettings) -> Grammar | None:
        """Make ready what the structure of answers needs; any thread may do so before submitting.

        Args:
            sampling: how the answers are chosen.

        Returns:
            The structure; None if none is asked for.

        Raises:
            ConfigError: if it cannot be followed.
            PromptError: if there is no tokenizer to follow it with.
        """
        if sampling.structure is None:
            return None
        if self._grammars is None:
            raise PromptError("structures need a tokenizer; give the engine one")
        return self._grammars.compile(sampling.structure)

    def _begin(self, job: Job, encoded: EncodedRequest) -> None:
        """Queue the answers of a request whose pictures are encoded."""
        job.request = encoded.request
        try:
            check_length(len(job.request.prompt), self._limits)
        except InternVLError as error:
            self._give_up(job, error)
            return
        settings = self.settings
        job.begin(
            encoded.digests, self.rules, self.tokenizer,
            num_places=self._limits.num_places,
            block_size=settings.block_size if settings.has_prefix_cache else None,
        )  # fmt: skip
        for sequence in job.sequences:
            self.scheduler.add(sequence)
        if job.is_arriving:
            self._arriving.append(job)

    def _note_arrivals(self) -> None:
        """Go on with prompts whose visual tokens have come; end those for which none will come."""
        for job in self._arriving:
            assert job.request.arriving is not None
            job.failure = job.request.arriving.error
            if job.failure is None:
                job.note_arrivals()
                continue
            for sequence in job.sequences:
                if sequence.finish_reason is None:
                    self._fail_sequence(sequence, str(job.failure))
        if self._arriving:
            self._arriving = [job for job in self._arriving if job.is_arriving]

    def _take(self, sequence: Sequence, choice: Choice) -> None:
        """Add a token to an answer, and end the answer if it is the last."""
        job = self._jobs[sequence.request_id]
        if job.seconds_to_first_token is None:
            job.note_first_token()
        token_id, sampling = choice.token_id, job.sampling
        sequence.token_ids.append(token_id)
        sequence.row.accept(token_id)
        length = len(sequence.token_ids) - sequence.num_prompt
        logprobs: tuple[TokenLogprob, ...] | None = None
        if sequence.logprobs is not None:
            assert choice.logprob is not None
            logprobs = (TokenLogprob(token_id, choice.logprob, choice.top),)
            sequence.logprobs += logprobs
        text, is_stopped = "", False
        if sequence.detokenizer is not None:
            text, is_stopped = sequence.detokenizer.push([token_id])
        is_ended = is_stopped or token_id in sequence.row.end_ids
        update = Update(
            sequence.request_id, sequence.sample, (token_id,), text,
            logprobs if sampling.num_logprobs is not None else None,
        )  # fmt: skip
        if is_ended and length >= sampling.min_tokens:
            self._news += self._end(job, sequence, "stop", update)
        elif length >= sequence.max_tokens:
            self._news += self._end(job, sequence, "length", update)
        else:
            if text:
                sequence.texts.append(text)
            if not sampling.keeps_best:
                self._news.append(update)

    def _end(
        self, job: Job, sequence: Sequence, reason: FinishReason, update: Update
    ) -> list[Update]:
        """End an answer; with the last one of a request, the request."""
        text = update.text
        if sequence.detokenizer is not None:
            text += sequence.detokenizer.flush()
        sequence.texts.append(text)
        sequence.finish_reason, sequence.error = reason, update.error
        self.scheduler.remove(sequence)
        completion = None
        if job.is_finished:
            completion = job.complete()
            self._forget_job(job)
        if job.sampling.keeps_best:
            return [] if completion is None else completion.as_updates()
        return [replace(update, text=text, finish_reason=reason, completion=completion)]

    def _fail_sequence(self, sequence: Sequence, error: str) -> None:
        job = self._jobs[sequence.request_id]
        update = Update(sequence.request_id, sequence.sample, error=error)
        self._news += self._end(job, sequence, "error", update)

    def _give_up(self, job: Job, failure: InternVLError | None = None) -> None:
        """End a request none of whose answers has begun."""
        self._forget_job(job)
        self._news += job.give_up(failure).as_updates()
