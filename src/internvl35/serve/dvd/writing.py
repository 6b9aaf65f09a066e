"""The language stage of a request: prompt and visual tokens to a language server, answers back.

No counterpart in the paper.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, replace

import torch

from internvl35.data.compression import TileRouting, compress_prompt
from internvl35.errors import ServerError
from internvl35.generate.answers import Completion, Sample, TokenLogprob, Update
from internvl35.generate.request import Request
from internvl35.serve.dvd.attempts import attempts
from internvl35.serve.dvd.calls import Call
from internvl35.serve.dvd.encoding import beside
from internvl35.serve.dvd.peers import Pool
from internvl35.serve.dvd.visual_tokens import VisualTokens
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.link import Link
from internvl35.serve.messages import (
    Features,
    Finished,
    Generate,
    Message,
    Progress,
    PromptLogprobs,
    to_block,
)
from internvl35.serve.refusals import RefusedError
from internvl35.serve.stream import Stream
from internvl35.serve.tracing import write_parent


@dataclass(frozen=True, eq=False)
class Writing:
    """How a request is answered once it is known which tiles are compressed."""

    call: Call
    """The request."""
    tokens: VisualTokens
    """Those that came, and those that will."""
    sizes: tuple[int, int]
    """Visual tokens of a tile, and of a compressed one."""
    adapter: str | None
    """Of the LoRA adapter; None for the checkpoint alone."""
    can_restart: bool
    """Whether nothing is told before the end, so that another server can begin anew."""

    async def run(self, pool: Pool, started: float) -> AsyncGenerator[Update]:
        """Have the request answered, by as many servers as it takes.

        Args:
            pool: of language servers.
            started: when the request came, by ``time.perf_counter``.

        Yields:
            Updates; the last one holds the completion.

        Raises:
            InternVLError: if it cannot be answered.
            RefusedError: if an answer broke off of which a part was told.
        """
        routed = await self._route()
        has_told = False
        try:
            for attempt in attempts(pool, 1, self.call.key, self.call.request_id):
                answer = Answer(self.call, routed, started)
                async with (
                    attempt as link,
                    aclosing(self._ask(link, attempt.number, routed, answer)) as updates,
                ):
                    async for update in updates:
                        if not self.can_restart:
                            attempt.is_last = has_told = True
                            yield update
                if answer.completion is not None:
                    break
        except ServerError as error:
            if not has_told:
                raise
            raise RefusedError(
                503, "the answer broke off: a server was lost; ask again", "server_error",
                code="answer_lost",
            ) from error  # fmt: skip
        if self.can_restart and answer.completion is not None:
            for update in answer.completion.as_updates():
                yield update

    async def _route(self) -> Request:
        """Shorten the prompt, once it is known by what."""
        request, choices, scores = self.call.request, self.call.choices, None
        if choices is None:
            tiles = await self.tokens.wait()
            choices = tuple(tile.is_compressed for tile in tiles)
            scores = tuple(tile.score for tile in tiles if tile.score is not None)
        if self.call.flash.policy == "off" or not choices:
            return request
        prompt = compress_prompt(
            request.prompt, choices, tokens_per_tile=self.sizes[0], compressed_tokens=self.sizes[1]
        )
        return replace(request, prompt=prompt, routing=TileRouting(choices, scores or None))

    async def _ask(
        self, link: Link, attempt: int, routed: Request, answer: Answer
    ) -> AsyncGenerator[Update]:
        """Try one server."""
        choices = (False,) * self.call.num_tiles
        if routed.routing is not None:
            choices = routed.routing.is_compressed
        prompt = torch.tensor(routed.prompt.token_ids, dtype=torch.int32)
        opening = Generate(
            self.call.wire_id, attempt, routed.prompt.image_spans, choices, self.call.sampling,
            self.call.cache_salt, self.call.priority, self.adapter, to_block(prompt),
            write_parent(),
        )  # fmt: skip
        stream = await link.open(opening)
        async with beside(stream, self._forward(stream)):
            while answer.completion is None:
                for update in answer.add(await stream.receive()):
                    yield update

    async def _forward(self, stream: Stream) -> None:
        for number in range(self.call.num_tiles):
            tile = await self.tokens.read(number)
            await stream.send(
                Features(
                    self.call.wire_id, tile.tile, 1, (tile.is_compressed,), None, tile.values
                )
            )  # fmt: skip


class Answer:
    """Puts the messages of one attempt together.

    Args:
        call: the request.
        routed: as it is answered.
        started: when it came, by ``time.perf_counter``.
    """

    def __init__(self, call: Call, routed: Request, started: float) -> None:
        """Begin with empty answers."""
        self.completion: Completion | None = None
        self._call, self._routed, self._started = call, routed, started
        self._parts: list[list[Progress]] = [[] for _ in range(call.sampling.n)]
        self._prompt: list[TokenLogprob | None] | None = None
        self._num_open = call.sampling.n
        self._last: Update | None = None
        self._first_s: float | None = None

    def add(self, message: Message) -> Iterator[Update]:
        """Take a message in.

        Args:
            message: checked against the plan of the request.

        Yields:
            What can be told now; the end of the last answer waits for the end of all.

        Raises:
            WireError: if the server ends the request before its answers.
        """
        if isinstance(message, PromptLogprobs):
            length = len(self._routed.prompt)
            self._prompt = self._prompt or [None] * length
            self._prompt[message.start : message.start + len(message.logprobs)] = message.logprobs
        elif isinstance(message, Finished):
            if self._num_open or self._last is None:
                raise WireError(NackCode.UNPLANNED, "the server ended before all answers did")
            self.completion = self._complete(message)
            yield replace(self._last, completion=self.completion)
        elif isinstance(message, Progress):
            yield from self._add_progress(message)

    def _add_progress(self, message: Progress) -> Iterator[Update]:
        if message.sample >= len(self._parts):
            raise WireError(NackCode.UNPLANNED, "an answer that nobody asked for")
        self._parts[message.sample].append(message)
        if self._first_s is None and message.token_ids:
            self._first_s = time.perf_counter() - self._started
        update = Update(
            self._call.request_id, message.sample, message.token_ids, message.text,
            message.logprobs, message.finish_reason, message.error,
        )  # fmt: skip
        self._num_open -= message.finish_reason is not None
        if message.finish_reason is not None and not self._num_open:
            self._last = update
        else:
            yield update

    def _complete(self, end: Finished) -> Completion:
        first, told = self._first_s, end.seconds_to_first_token  # told: from the visual tokens on
        is_shown = self._call.num_tiles and first is not None and told is not None
        return Completion(
            self._call.request_id,
            self._routed.without_pictures,
            tuple(map(_join, self._parts)),
            end.num_cached_tokens,
            None if self._prompt is None else tuple(self._prompt),
            first,
            time.perf_counter() - self._started,
            max(0.0, (first or 0.0) - (told or 0.0)) if is_shown else None,
        )


def _join(parts: list[Progress]) -> Sample:
    last = parts[-1]
    assert last.finish_reason is not None
    logprobs = [one for part in parts for one in part.logprobs or ()]
    return Sample(
        tuple(token for part in parts for token in part.token_ids),
        "".join(part.text for part in parts),
        last.finish_reason,
        tuple(logprobs) if any(part.logprobs is not None for part in parts) else None,
        last.error,
    )
