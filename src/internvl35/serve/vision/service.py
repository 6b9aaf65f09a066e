"""Works on the requests of a vision server: tiles in, visual tokens out, group by group.

Without compression each message of tiles is encoded as it comes, and its visual tokens go back at
once. Under Flash the choices need all scores, so a request (under ``absolute`` a picture) is
encoded when the last of its tiles is there. Nothing of a request is kept after its end but what the
cache of visual tokens holds. Paper sections 2.1 and 2.3.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor

from internvl35.errors import ServerError
from internvl35.generate.flash import FlashSettings
from internvl35.generate.routing import resolve_settings
from internvl35.generate.vision import VisionStage, VisionStageSettings
from internvl35.model.composite import VisionLanguageModel
from internvl35.serve.messages import (
    Channel,
    Encode,
    Encoded,
    Features,
    Generate,
    Load,
    NackCode,
    Tiles,
    WireError,
    to_block,
    to_tensor,
)
from internvl35.serve.vision.encoding_line import EncodedGroup, EncodingLine, TileGroup
from internvl35.serve.vision.settings import VisionServerSettings

_MESSAGE_BYTES = 4 * 2**20
"""Most bytes of visual tokens in a message, unless a single tile has more."""


class VisionService:
    """Encodes the tiles of many requests; meets ``Service``.

    Args:
        model: tower, projectors and router, in eval mode.
        settings: how much is taken on.
        dtype: of visual tokens on the wire.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        settings: VisionServerSettings | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        """Start the thread that encodes."""
        self.settings = settings or VisionServerSettings()
        self.config, self._dtype = model.config, dtype
        stage = VisionStageSettings(
            max_tiles_per_batch=self.settings.max_tiles_per_batch,
            cache_bytes=self.settings.feature_cache_mib * 2**20,
        )
        self._line = EncodingLine(
            VisionStage(model, stage), model.config, num_helpers=self.settings.num_helpers
        )
        self._num_requests = self._num_tiles = self._num_waiting = 0

    @property
    def load(self) -> Load:
        """How busy it is."""
        return Load(self._num_requests, self._num_waiting, 0, int(self._line.thread.stalled_s))

    async def wait_failed(self) -> None:
        """Wait until nothing can be encoded any more.

        Raises:
            BaseException: what ended the thread.
        """
        await asyncio.wrap_future(self._line.thread.ended)

    def close(self) -> None:
        """End the thread; a second call is harmless."""
        self._line.close()

    async def answer(self, opening: Encode | Generate, channel: Channel) -> None:
        """Encode the tiles of one request; see ``Service``."""
        assert isinstance(opening, Encode)
        flash = resolve_settings(opening.flash, self.config)
        work = _Work(opening, channel, flash, self.config.force_image_size)
        with self._place(work):
            try:
                async with asyncio.TaskGroup() as tasks:
                    async for first, group in work.read_groups():
                        tasks.create_task(self._encode(work, first, group))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from None
            seconds = time.perf_counter() - work.arrived_at
            await channel.send(Encoded(opening.request_id, work.num_cached_tiles, seconds))

    @contextmanager
    def _place(self, work: _Work) -> Iterator[None]:
        """Hold room for all tiles of a request."""
        most = self.settings.max_tiles_in_work
        if self._num_tiles and self._num_tiles + work.num_tiles > most:
            raise WireError(
                NackCode.BUSY,
                f"{self._num_tiles} tiles are in work, and the request has {work.num_tiles}; at "
                f"most {most} may be",
                self.settings.retry_after_s,
            )
        self._num_requests += 1
        self._num_tiles += work.num_tiles
        self._num_waiting += work.num_tiles
        try:
            yield
        finally:
            self._num_requests -= 1
            self._num_tiles -= work.num_tiles
            self._num_waiting -= work.num_tiles - work.num_encoded

    async def _encode(self, work: _Work, first: int, group: TileGroup) -> None:
        try:
            encoded = await asyncio.wrap_future(self._line.encode(group))
        except ServerError as error:
            raise WireError(NackCode.INTERNAL, str(error)) from error
        num_tiles = len(encoded.is_compressed)
        work.num_encoded += num_tiles
        work.num_cached_tiles += encoded.num_cached_tiles
        self._num_waiting -= num_tiles
        for message in self._write(work.opening.request_id, first, encoded):
            await work.channel.send(message)

    def _write(self, request_id: str, first: int, encoded: EncodedGroup) -> Iterator[Features]:
        """Cut visual tokens into messages of whole tiles."""
        features = encoded.features.to(self._dtype)
        whole, few = self.config.tokens_per_tile, self.config.compressed_tokens_per_tile
        counts = [few if choice else whole for choice in encoded.is_compressed]
        ends = [0, *accumulate(counts)]
        step = max(1, _MESSAGE_BYTES // (whole * features.shape[1] * features.element_size()))
        for start in range(0, len(counts), step):
            tiles = slice(start, start + step)
            choices = encoded.is_compressed[tiles]
            rows = features[ends[start] : ends[start + len(choices)]]
            scores = None if encoded.scores is None else encoded.scores[tiles]
            yield Features(request_id, first + start, len(choices), choices, scores, to_block(rows))


class _Work:
    """One request while it is worked on."""

    def __init__(
        self, opening: Encode, channel: Channel, flash: FlashSettings, tile_side: int
    ) -> None:
        self.opening, self.channel = opening, channel
        self.num_tiles = sum(opening.tiles)
        self.num_encoded = self.num_cached_tiles = 0
        self.arrived_at = 0.0  # the last tile
        self._flash, self._side = flash, tile_side

    async def read_groups(self) -> AsyncIterator[tuple[int, TileGroup]]:
        """Read all tiles; hand on those that are encoded together, with the first one's number."""
        is_whole = self._flash.policy == "off"
        groups = _Groups(self.opening.tiles, self._flash, self._side)
        num_left = self.num_tiles
        while num_left:
            message = await self.channel.receive()
            assert isinstance(message, Tiles)  # as was planned
            num_left -= message.num_tiles
            self.arrived_at = time.perf_counter()
            levels = to_tensor(message.values)
            if is_whole:
                yield message.first_tile, self._group(levels, (message.num_tiles,))
                continue
            for first, found, tiles in groups.add(message.first_tile, levels):
                yield first, self._group(found, tiles)

    def _group(self, levels: Tensor, tiles: tuple[int, ...]) -> TileGroup:
        opening = self.opening
        return TileGroup(levels, tiles, self._flash, opening.cache_salt, opening.priority)


class _Groups:
    """Puts the tiles of a request together that are encoded together: a picture's, or all."""

    def __init__(self, tiles: tuple[int, ...], flash: FlashSettings, side: int) -> None:
        self._pictures = [tiles] if flash.joins_pictures else [(one,) for one in tiles]
        self._sizes = [sum(pictures) for pictures in self._pictures]
        self._firsts = [0, *accumulate(self._sizes)]
        self._missing = list(self._sizes)
        self._levels: list[Tensor | None] = [None] * len(self._sizes)
        self._side = side

    def add(self, first: int, levels: Tensor) -> Iterator[tuple[int, Tensor, tuple[int, ...]]]:
        """Take some tiles; hand out each group that is now complete."""
        stop = first + len(levels)
        for number, size in enumerate(self._sizes):
            own = self._firsts[number]
            start, end = max(first, own), min(stop, own + size)
            if start >= end:
                continue
            found = self._levels[number]
            if found is None:
                found = torch.empty(size, self._side, self._side, 3, dtype=torch.uint8)
                self._levels[number] = found
            found[start - own : end - own] = levels[start - first : end - first]
            self._missing[number] -= end - start
            if not self._missing[number]:
                self._levels[number] = None
                yield own, found, self._pictures[number]
