"""An engine in other processes: tiles to vision servers, visual tokens on to language servers.

The three stages overlap: tiles of a request are sent while others of it are encoded, and visual
tokens go on as they come. Trying again is left to :mod:`internvl35.serve.dvd.attempts`. Paper
section 2.3, decoupled vision-language deployment.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from internvl35.errors import InternVLError
from internvl35.generate.answers import Completion, Update
from internvl35.generate.engines import GenerationEngine, one_each
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.routing import resolve_settings
from internvl35.generate.sampling import SamplingSettings
from internvl35.model.configuration import InternVLChatConfig
from internvl35.serve.dvd.calls import Call, check_levels
from internvl35.serve.dvd.children import Children
from internvl35.serve.dvd.encoding import encode
from internvl35.serve.dvd.local_encoder import LocalEncoder
from internvl35.serve.dvd.peers import Pool
from internvl35.serve.dvd.visual_tokens import VisualTokens
from internvl35.serve.dvd.writing import Writing
from internvl35.serve.logs import with_facts
from internvl35.serve.messages import new_request_id

_LOGGER = logging.getLogger("internvl35.serve")

_TILES_PER_MESSAGE = 4
"""Tiles that travel together, so that encoding begins before the last was sent."""


@dataclass(frozen=True)
class Servers:
    """All servers behind a gateway."""

    vision: Pool
    """Those that encode."""
    language: Pool
    """Those that write."""
    children: Children | None = None
    """Those of them that are processes of ours."""

    @property
    def pools(self) -> tuple[Pool, Pool]:
        """Both kinds."""
        return self.vision, self.language

    @property
    def is_up(self) -> bool:
        """Whether a request can be answered."""
        return all(pool.is_up for pool in self.pools)

    async def start(self) -> None:
        """Start children, and begin to connect; a second call is harmless."""
        if self.children is not None:
            await self.children.start()
        for pool in self.pools:
            await pool.start()

    async def close(self) -> None:
        """End all connections and children; a second call is harmless."""
        for pool in self.pools:
            await pool.close()
        if self.children is not None:
            await self.children.close()


@dataclass(frozen=True)
class DecoupledEngine(GenerationEngine):
    """Answers requests by other processes; meets ``GenerationEngine``."""

    servers: Servers
    """They are started and closed by who made them."""
    config: InternVLChatConfig
    """Of the checkpoint that all of them serve."""
    adapter: str | None = None
    """Name of the LoRA adapter that answers; None for the checkpoint alone."""
    adapters: tuple[str, ...] = ()
    """Names of all adapters that language servers have."""
    local: LocalEncoder | None = None
    """Encodes small requests here; None to leave all to vision servers."""
    can_restart: bool = False
    """Whether nothing is told before the end, so that an answer can be begun anew elsewhere."""

    def with_adapter(self, name: str | None) -> DecoupledEngine:
        """Return the same engine for a LoRA adapter."""
        return replace(self, adapter=name)

    async def stream(
        self,
        request: Request,
        sampling: SamplingSettings,
        *,
        request_id: str | None = None,
        priority: int = 0,
        flash: FlashSettings | None = None,
        cache_salt: str = "",
    ) -> AsyncIterator[Update]:
        """Answer one request; see ``GenerationEngine``.

        Args:
            request: its tiles are levels in uint8, not normalised.
            sampling: how the answers are chosen.
            request_id: its name.
            priority: lower numbers are served first.
            flash: which tiles are compressed.
            cache_salt: only requests of equal salt share what is cached.

        Yields:
            Updates; the last one holds the completion.

        Raises:
            InternVLError: if the request cannot be answered.
            RefusedError: if an answer broke off of which a part was told.
            ValueError: if tiles are normalised.
        """
        started = time.perf_counter()
        check_levels(request)
        wire_id = new_request_id()
        resolved = resolve_settings(flash, self.config)
        named = with_facts(request=request_id, wire=wire_id)
        _LOGGER.debug("over links", extra=named)
        call = Call(
            request_id or wire_id, wire_id, request, sampling, resolved, cache_salt, priority
        )
        async with aclosing(self._answer(call, started)) as updates:
            async for update in updates:
                yield update

    async def _answer(self, call: Call, started: float) -> AsyncGenerator[Update]:
        sizes = self.config.tokens_per_tile, 0
        if self.config.flash_mode:
            sizes = self.config.tokens_per_tile, self.config.compressed_tokens_per_tile
        tokens = VisualTokens(call.num_tiles, sizes)
        writing = Writing(call, tokens, sizes, self.adapter, self.can_restart)
        encoding = None
        if call.num_tiles:
            if self.local is not None and self.local.takes(call):
                work = self.local.encode(call, tokens)
            else:
                work = encode(self.servers.vision, call, tokens, _TILES_PER_MESSAGE)
            encoding = asyncio.create_task(work, name=f"encodes {call.request_id}")
        try:
            async with aclosing(writing.run(self.servers.language, started)) as updates:
                async for update in updates:
                    yield update
        finally:
            if encoding is not None:
                encoding.cancel()
                await asyncio.gather(encoding, return_exceptions=True)

    def generate(
        self,
        requests: Sequence[Request],
        sampling: SamplingSettings | Sequence[SamplingSettings],
        *,
        flash: FlashSettings | Sequence[FlashSettings | None] | None = None,
    ) -> list[Completion]:
        """Answer requests in a loop of this call's own; see ``GenerationEngine``.

        The servers are connected for it and closed in the end, so nobody may use them beside it.
        """
        each, choices = one_each(sampling, len(requests)), one_each(flash, len(requests))

        async def answer_all() -> list[Completion]:
            await self.servers.start()
            try:
                calls = zip(requests, each, choices, strict=True)
                return await asyncio.gather(*(self._complete(*call) for call in calls))
            finally:
                await self.servers.close()

        return asyncio.run(answer_all())

    async def _complete(
        self, request: Request, sampling: SamplingSettings, flash: FlashSettings | None
    ) -> Completion:
        completion = None
        try:
            async for update in replace(self, can_restart=True).stream(
                request, sampling, flash=flash
            ):
                completion = update.completion or completion
        except InternVLError as error:
            return Completion.of_none("", request, sampling.n, error)
        assert completion is not None
        return completion

    def close(self) -> None:
        """Nothing is held here: :meth:`Servers.close` ends the connections."""
