"""Requests on their way through a gateway: read, opened, handed to the engine, counted.

Routes turn what comes out into their own formats. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from internvl35.data.tiles import normalize_levels
from internvl35.errors import ConfigError, InternVLError
from internvl35.generate.answers import Completion, Sample, Update
from internvl35.generate.engines import GenerationEngine
from internvl35.generate.flash import FlashSettings
from internvl35.generate.request import Request
from internvl35.generate.sampling import SamplingSettings
from internvl35.serve.chat_answer import INTERNAL, AnswerFormat
from internvl35.serve.chat_body import ChatCall, assemble, check_tiles, read_body
from internvl35.serve.chat_messages import MediaRules
from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.guard import Caller
from internvl35.serve.media import LoadedMedia, MediaItem, MediaLoader
from internvl35.serve.metrics import Metrics
from internvl35.serve.refusals import RefusedError
from internvl35.serve.room import Room
from internvl35.serve.tracing import stage

if TYPE_CHECKING:
    from internvl35.chat import Chat


_ANY_ADDRESS = MediaRules(allow_urls=True, allow_videos=True)
"""What a body may name at all; the loader knows which of it is fetched."""

_NUM_THREADS = 2
"""Prompts that are built at once."""


@dataclass(frozen=True)
class Defaults:
    """What holds where a body says nothing."""

    sampling: SamplingSettings
    """How answers are chosen."""
    flash: FlashSettings | None = None
    """Which tiles are compressed; None for what the checkpoint says."""


@dataclass(frozen=True)
class OpenedCall:
    """A request that an engine can take."""

    call: ChatCall
    """What the body asks for."""
    request: Request
    """Its prompt and tiles."""
    caller: Caller
    """Who asks."""


class Answerer:
    """Answers requests by an engine in this process.

    Args:
        chat: builds the prompts.
        engine: answers them.
        loader: fetches and cuts pictures and videos; its limits hold.
        form: writes the answers.
        defaults: what holds where a body says nothing.
        settings: how much is let in.
        names: of the model, the first of which answers carry; a body may name any of them.

    Raises:
        ConfigError: if an adapter of the engine has a name of the model.
    """

    def __init__(
        self,
        chat: Chat,
        engine: GenerationEngine,
        loader: MediaLoader,
        form: AnswerFormat,
        defaults: Defaults,
        settings: GatewaySettings,
        names: Sequence[str],
    ) -> None:
        """Begin with empty rooms."""
        self.chat, self.engine, self.form = chat, engine, form
        self.defaults, self.settings = defaults, settings
        self.adapters = tuple(getattr(engine, "adapters", ()))  # of engines that have some
        if taken := sorted(set(self.adapters) & set(names)):
            raise ConfigError(f"an adapter has the model's name {taken[0]}; give it another one")
        self.names = (*names, *self.adapters)
        self.loader = loader
        self.room = Room(settings)
        self.metrics = Metrics(self.room)
        self.started = int(time.time())
        self.has_failed = False
        self._pool = ThreadPoolExecutor(_NUM_THREADS, "prompts")

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken."""
        return not (self.room.is_draining or self.has_failed)

    async def start(self) -> None:
        """Begin what needs a running loop."""

    async def stop(self) -> None:
        """Give up what was begun; no request is in work any more."""
        await self.loader.close()

    def engine_for(self, opened: OpenedCall, *, is_whole: bool) -> GenerationEngine:
        """Say who answers a request.

        Args:
            opened: the request.
            is_whole: whether nothing is told before the end.

        Returns:
            An engine.
        """
        return self.engine

    def form_for(self, model: str | None) -> AnswerFormat:
        """Say who writes an answer down.

        Args:
            model: that was asked for.

        Returns:
            A format; answers of adapters carry their names.
        """
        if model is None or model not in self.adapters:
            return self.form
        return replace(self.form, model=model)

    def note_fault(self) -> None:
        """Take in that the engine raised what is no request's fault: it has ended."""
        self.has_failed = True

    def to_tiles(self, levels: NDArray[np.uint8]) -> Tensor:
        """Turn the levels of tiles into what the engine takes.

        Args:
            levels: ``(N, 3, tile, tile)``.

        Returns:
            Tiles of the same shape.
        """
        return normalize_levels(levels)

    def read(self, body: Any) -> ChatCall:
        """Read a chat-completions body.

        Args:
            body: JSON values.

        Returns:
            What it asks for.

        Raises:
            InternVLError: if it cannot be answered.
        """
        call = read_body(body, self.defaults.sampling, _ANY_ADDRESS)
        self.check_model(call.model)
        return replace(call, flash=call.flash or self.defaults.flash)

    def check_model(self, name: str | None) -> None:
        """Refuse a model that is not served here.

        Args:
            name: as a body says it; None for any.

        Raises:
            RefusedError: if there is none of this name.
        """
        if name is not None and name not in self.names:
            raise RefusedError(
                404, f"no such model; served here: {', '.join(self.names)}",
                code="model_not_found", param="model",
            )  # fmt: skip

    async def open(self, call: ChatCall, caller: Caller) -> OpenedCall:
        """Open the pictures of a request and build its prompt.

        Args:
            call: what is asked for.
            caller: who asks.

        Returns:
            What an engine takes; nothing is held for it before it is answered.

        Raises:
            InternVLError: if pictures or prompt cannot be used.
        """
        await self.room.begin_opening()
        started = time.perf_counter()
        try:
            with stage("media", pictures=len(call.pictures)) as opening, opening.around():
                loaded = await self._load(call, caller)
            with stage("prompt") as building:
                loop = asyncio.get_running_loop()
                request = await loop.run_in_executor(self._pool, self._build, call, loaded)
                building.note(prompt_tokens=len(request.prompt), tiles=request.prompt.num_tiles)
        finally:
            self.room.end_opening()
        self.metrics.note_opening(time.perf_counter() - started)
        return OpenedCall(call, request, caller)

    async def _load(self, call: ChatCall, caller: Caller) -> list[LoadedMedia]:
        items = [
            MediaItem(str(p.source), p.kind, p.max_tiles, p.num_frames, p.bound, p.where)
            for p in call.pictures
        ]
        loaded: list[LoadedMedia] = []
        if items:
            async with aclosing(self.loader.load(items, caller.request_id)) as found:
                async for media in found:
                    loaded.append(media)
                    check_tiles(self.chat, sum(len(one.levels) for one in loaded))
        return loaded

    async def stream(self, opened: OpenedCall, *, is_whole: bool = False) -> AsyncGenerator[Update]:
        """Answer a request; leaving early cancels it.

        Args:
            opened: the request.
            is_whole: whether nothing is told before the end.

        Yields:
            Updates; the last one holds the completion.

        Raises:
            InternVLError: if the request cannot be answered.
            RefusedError: if an answer broke off.
        """
        try:
            updates = self.engine_for(opened, is_whole=is_whole).stream(
                opened.request, opened.call.sampling, request_id=opened.caller.request_id,
                flash=opened.call.flash, cache_salt=opened.caller.salt,
            )  # fmt: skip
            async with aclosing(updates):  # type: ignore[type-var]  # an async generator everywhere
                with (
                    self.room.hold(opened.request.prompt.num_tiles),
                    stage("generate") as generating,
                ):
                    async for update in updates:
                        _check(update)
                        if update.completion is not None:
                            self.metrics.note_completion(update.completion)
                            generating.note_completion(update.completion)
                        yield update
        except (InternVLError, GeneratorExit, asyncio.CancelledError):
            raise
        except Exception:
            self.note_fault()
            raise

    async def complete(self, opened: OpenedCall) -> Completion:
        """Answer a request and wait for the whole.

        Args:
            opened: the request.

        Returns:
            Its answers, all of them whole.

        Raises:
            InternVLError: if the request cannot be answered.
        """
        completion = None
        async with aclosing(self.stream(opened, is_whole=True)) as updates:
            async for update in updates:
                completion = update.completion or completion
        assert completion is not None
        return completion

    def _build(self, call: ChatCall, loaded: Sequence[LoadedMedia]) -> Request:
        shown = []
        for media in loaded:
            tiles = self.to_tiles(media.levels).split(media.num_tiles)
            shown.append(tuple(zip(tiles, media.grids, strict=True)))
        return assemble(self.chat, call, shown)


def _check(update: Update) -> None:
    """Raise what went wrong with an answer, if anything did."""
    completion = update.completion
    if completion is not None and completion.failure is not None:
        raise completion.failure
    samples: Sequence[Update | Sample] = () if completion is None else completion.samples
    for one in (*samples, update):
        if one.finish_reason in ("error", "cancelled"):
            reason = one.error or "it was cancelled"
            raise RefusedError(500, f"the answer broke off: {reason}", INTERNAL)


def caller_of(state: Mapping[str, Any]) -> Caller:
    """Tell who sent a request.

    Args:
        state: of the request's scope.

    Returns:
        What the guard noted.
    """
    caller = state["caller"]
    assert isinstance(caller, Caller)
    return caller
