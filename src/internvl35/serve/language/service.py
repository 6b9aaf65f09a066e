"""Works on the requests of a language server: a prompt and visual tokens in, answers out.

Visual tokens go into the prompt as they arrive, while the tokens in front of them are computed.
Nothing of a request is kept after its end but what the engine's cache of prefixes holds. Answers
are written by an engine of :mod:`internvl35.generate`. Paper section 2.3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager
from itertools import accumulate

import torch

from internvl35.data.compression import TileRouting
from internvl35.data.token_writer import Prompt
from internvl35.errors import BusyError, InternVLError, ServerError
from internvl35.generate.answers import Completion, Update
from internvl35.generate.arriving import ArrivingFeatures
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.request import Request
from internvl35.model.configuration import InternVLChatConfig
from internvl35.serve.language.settings import LanguageServerSettings
from internvl35.serve.messages import (
    Channel,
    Encode,
    Features,
    Finished,
    Generate,
    Load,
    NackCode,
    Progress,
    PromptLogprobs,
    WireError,
    to_tensor,
)

_TOKENS_A_MESSAGE = 256
"""Most tokens in a message; with the likeliest hundred for each it stays far below the limit."""


class LanguageService:
    """Answers requests whose pictures are encoded elsewhere; meets ``Service``.

    Args:
        engines: by the name of their LoRA adapter; None for the checkpoint alone.
        config: of the checkpoint.
        settings: how much is taken on.
        dtype: of visual tokens on the wire.
    """

    def __init__(
        self,
        engines: Mapping[str | None, GenerationEngine],
        config: InternVLChatConfig,
        settings: LanguageServerSettings | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Begin with no requests."""
        self.settings = settings or LanguageServerSettings()
        self._engines, self.config = dict(engines), config
        self._dtype = dtype
        self._num_requests = self._num_tokens = self._num_waiting = 0
        self._failure: asyncio.Future[None] | None = None

    @property
    def load(self) -> Load:
        """How busy it is."""
        stalled_s = max(engine.stalled_s for engine in self._engines.values())
        return Load(self._num_requests, 0, self._num_waiting, int(stalled_s))

    async def wait_failed(self) -> None:
        """Wait until an engine has ended.

        Raises:
            BaseException: what ended it.
        """
        self._failure = asyncio.get_running_loop().create_future()
        await self._failure

    def close(self) -> None:
        """End the engines; a second call is harmless."""
        for engine in self._engines.values():
            engine.close()

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        """Answer one request; see ``Service``."""
        assert isinstance(opening, Generate)
        if opening.adapter not in self._engines:
            raise WireError(
                NackCode.WRONG_REQUEST, f"there is no adapter {opening.adapter!r} at this server"
            )
        work = _Work(opening, channel, self.config, self._dtype)
        with self._place(work):
            receiving = asyncio.create_task(work.receive_features())
            try:
                await self._write(work, self._engines[opening.adapter])
            finally:
                receiving.cancel()
                await asyncio.wait([receiving])

    @contextmanager
    def _place(self, work: _Work) -> Iterator[None]:
        """Hold room for the prompt of a request."""
        most, num_tokens = self.settings.max_tokens_in_work, len(work.request.prompt)
        if self._num_tokens and self._num_tokens + num_tokens > most:
            raise WireError(
                NackCode.BUSY,
                f"prompts of {self._num_tokens} tokens are in work, and the request has "
                f"{num_tokens}; at most {most} may be",
                self.settings.retry_after_s,
            )
        self._num_requests += 1
        self._num_tokens += num_tokens
        self._num_waiting += num_tokens
        try:
            yield
        finally:
            self._num_requests -= 1
            self._num_tokens -= num_tokens
            self._num_waiting -= num_tokens if work.first_token_at is None else 0

    async def _write(self, work: _Work, engine: GenerationEngine) -> None:
        opening = work.opening
        updates = engine.stream(
            work.request, opening.sampling, request_id=f"{opening.request_id}-{opening.attempt}",
            priority=opening.priority, cache_salt=opening.cache_salt,
        )  # fmt: skip
        try:
            async with aclosing(updates) as news:  # type: ignore[type-var]  # a generator everywhere
                async for update in news:
                    if update.token_ids and work.first_token_at is None:
                        work.first_token_at = time.perf_counter()
                        self._num_waiting -= len(work.request.prompt)
                    await _tell(work, update)
        except WireError:
            raise
        except BusyError as error:
            raise WireError(NackCode.BUSY, str(error), self.settings.retry_after_s) from error
        except ServerError as error:
            raise WireError(NackCode.INTERNAL, str(error)) from error
        except InternVLError:
            raise
        except Exception as error:
            if self._failure is not None and not self._failure.done():
                self._failure.set_exception(error)  # an engine that raised anything else has ended
            raise


class _Work:
    """One request while it is worked on."""

    def __init__(
        self, opening: Generate, channel: Channel, config: InternVLChatConfig, dtype: torch.dtype
    ) -> None:
        self.opening, self.channel = opening, channel
        token_ids = tuple(to_tensor(opening.values).tolist())
        prompt = Prompt(token_ids, opening.spans, (False,) * len(token_ids))
        whole, few = config.tokens_per_tile, config.compressed_tokens_per_tile
        counts = [few if choice else whole for choice in opening.is_compressed]
        self._firsts = list(accumulate(counts, initial=0))
        arriving, choices = None, opening.is_compressed
        if choices:
            width = int(config.text_config.hidden_size)
            arriving = ArrivingFeatures(self._firsts[-1], width, dtype)
        routing = TileRouting(choices, None) if any(choices) else None
        self.request = Request(prompt, routing=routing, arriving=arriving)
        self.complete_at = time.perf_counter()
        self.first_token_at: float | None = None

    async def receive_features(self) -> None:
        """Take in all visual tokens."""
        features = self.request.arriving
        if features is None:
            return
        try:
            while not features.is_complete:
                message = await self.channel.receive()
                assert isinstance(message, Features)  # as was planned
                values, first = to_tensor(message.values), self._firsts[message.first_tile]
                await asyncio.to_thread(features.add, first, values)
            self.complete_at = time.perf_counter()
        except InternVLError as error:
            features.fail(error)
            raise


async def _tell(work: _Work, update: Update) -> None:
    """Send what is new, and with the last of it the end."""
    completion = update.completion
    if completion is not None and completion.failure is not None:
        raise completion.failure
    for message in _as_progress(work.opening.request_id, update):
        await work.channel.send(message)
    if completion is None:
        return
    for told in _as_prompt_logprobs(work.opening.request_id, completion):
        await work.channel.send(told)
    now, first = time.perf_counter(), work.first_token_at
    await work.channel.send(
        Finished(
            work.opening.request_id, completion.num_cached_tokens,
            None if first is None else first - work.complete_at, now - work.complete_at,
        )
    )  # fmt: skip


def _as_progress(request_id: str, update: Update) -> Iterator[Progress]:
    """Cut an update into messages; text and ending come with the last."""
    ids, logprobs, step = update.token_ids, update.logprobs, _TOKENS_A_MESSAGE
    for start in range(0, max(len(ids), 1), step):
        is_last = start + step >= len(ids)
        yield Progress(
            request_id, update.sample, ids[start : start + step], update.text if is_last else "",
            None if logprobs is None else logprobs[start : start + step],
            update.finish_reason if is_last else None, update.error if is_last else None,
        )  # fmt: skip


def _as_prompt_logprobs(request_id: str, completion: Completion) -> Iterator[PromptLogprobs]:
    logprobs = completion.prompt_logprobs or ()
    for start in range(0, len(logprobs), _TOKENS_A_MESSAGE):
        yield PromptLogprobs(request_id, start, logprobs[start : start + _TOKENS_A_MESSAGE])
