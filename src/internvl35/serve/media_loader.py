"""Loads the media of requests safely: checked, fetched under limits, decoded apart.

Which hosts and how much is said by :class:`~internvl35.serve.media.MediaSettings`. URLs are fetched
in threads of this process, by :mod:`internvl35.data.sources`; strangers' bytes are decoded by
:mod:`internvl35.serve.media_pool` alone. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

from internvl35.config import TileSettings
from internvl35.data.frames import VideoSettings
from internvl35.data.images import DEFAULT_IMAGES, ImageSettings
from internvl35.data.sources import SourceSettings, open_media, scheme_of
from internvl35.errors import BusyError, MediaError, ServerError
from internvl35.serve.media import LoadedMedia, MediaItem, MediaItemError, MediaSettings
from internvl35.serve.media_pool import DecodePool
from internvl35.serve.media_worker import DecodeJob
from internvl35.serve.tracing import stage

_LOGGER = logging.getLogger(__name__)

_AHEAD = 2
"""Media of one request that are worked on at once; those of others have their turn between."""

_GRACE_S = 1.0
"""Seconds after which a fetch is left that does not keep its own time, as in a name server."""


class SafeMediaLoader:
    """A :class:`~internvl35.serve.media.MediaLoader` for media that strangers name.

    Args:
        tiles: how pictures are cut.
        settings: which media are taken in, and how much of them.
        images: how pictures are turned upright and what lies behind transparent ones; its limits
            and formats are not used.
        pool: decodes; by default one of its own.
    """

    def __init__(
        self,
        tiles: TileSettings,
        settings: MediaSettings,
        images: ImageSettings = DEFAULT_IMAGES,
        pool: DecodePool | None = None,
    ) -> None:
        """Fetch and start nothing yet."""
        self._tiles, self._settings = tiles, settings
        self._images = replace(
            images, max_pixels=settings.max_pixels, formats=settings.image_formats
        )
        self._videos = VideoSettings(
            max_frames=settings.max_frames,
            max_frame_pixels=settings.max_frame_pixels,
            max_total_pixels=max(1, settings.max_memory_bytes // 8),  # of three bytes each
            max_packets=settings.max_packets,
            formats=settings.video_formats,
            codecs=settings.video_codecs,
        )
        self._source = SourceSettings(
            allow_paths=False,
            allow_urls=bool(settings.hosts),
            hosts=settings.hosts,
            allow_private_addresses=settings.allow_private_addresses,
            timeout_s=settings.fetch_timeout_s,
            max_redirects=settings.max_redirects,
        )
        self._pool = pool or DecodePool(settings.num_workers, settings.max_wait_s)
        self._threads = ThreadPoolExecutor(settings.max_fetches, "fetch")
        self._fetches = asyncio.Semaphore(settings.max_fetches)
        self._num_requests = 0
        self._is_closed = False

    async def load(
        self, items: Sequence[MediaItem], request_id: str = ""
    ) -> AsyncGenerator[LoadedMedia]:
        """Load the media of one request; see :class:`~internvl35.serve.media.MediaLoader`."""
        if self._is_closed:
            raise ServerError("media are not loaded any more; the server is stopping")
        jobs = [(item, self._plan(item)) for item in items]
        self._count(items)
        if self._num_requests >= self._settings.max_requests:
            raise BusyError("too many requests with pictures; ask again later")
        self._num_requests += 1
        waiting = deque(jobs)
        tasks: deque[asyncio.Task[LoadedMedia]] = deque()
        budget = _Budget(self._settings)
        try:
            for item in items:
                while waiting and len(tasks) < _AHEAD:
                    work = self._load_one(*waiting.popleft(), budget, request_id)
                    tasks.append(asyncio.create_task(work))
                loaded = await tasks[0]
                tasks.popleft()
                budget.take_tiles(len(loaded.levels), item)
                yield loaded
        finally:
            self._num_requests -= 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """End all decoding and begin no other fetch."""
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        await self._pool.close()

    def _count(self, items: Sequence[MediaItem]) -> None:
        """Refuse too many media before the first is fetched."""
        limits = {"image": self._settings.max_images, "video": self._settings.max_videos}
        for kind, most in limits.items():
            found = [item for item in items if item.kind == kind]
            if len(found) > most:
                raise MediaItemError(
                    f"{len(found)} {kind}s in one request; at most {most}", found[most].where
                )

    def _plan(self, item: MediaItem) -> DecodeJob:
        """Check what a body asks of one item."""
        if scheme_of(item.source) not in ("data", "http", "https"):
            raise _refuse(item, "it is no address; needed: data:image/png;base64,... or https://")
        if scheme_of(item.source) != "data" and not self._settings.hosts:
            raise _refuse(
                item, "URLs are not fetched here; send the bytes as data:image/png;base64,..."
            )
        job = DecodeJob(
            item.kind,
            self._tiles,
            self._images,
            self._videos,
            self._settings.decode_timeout_s,
            self._settings.max_memory_bytes,
        )
        if item.kind == "video":
            one_tile = replace(self._tiles, min_tiles=1, max_tiles=1)
            return replace(
                job, tiles=one_tile, num_frames=self._num_frames(item), bound=_bound(item)
            )
        if item.max_tiles is None:
            return job
        most = self._tiles.max_tiles
        if not 1 <= item.max_tiles <= most:
            raise _refuse(item, f"{item.max_tiles} tiles are asked for; needed: 1 to {most}")
        fewest = min(self._tiles.min_tiles, item.max_tiles)
        return replace(job, tiles=replace(self._tiles, min_tiles=fewest, max_tiles=item.max_tiles))

    def _num_frames(self, item: MediaItem) -> int:
        most = self._settings.max_frames
        found = min(self._settings.num_frames, most) if item.num_frames is None else item.num_frames
        if not 1 <= found <= most:
            raise _refuse(item, f"{found} frames are asked for; needed: 1 to {most}")
        return found

    async def _load_one(
        self, item: MediaItem, job: DecodeJob, budget: _Budget, request_id: str
    ) -> LoadedMedia:
        """Fetch and decode one item."""
        if scheme_of(item.source) != "data":
            return await self._fetch_and_decode(item, job, budget, request_id)

        async def read() -> bytes:
            source = replace(self._source, max_bytes=budget.room(item))
            with stage("fetch"):
                data = await asyncio.to_thread(_read, item.source, source)
            budget.take_bytes(len(data), item)
            return data

        return await self._decode(item, job, read)

    async def _decode(
        self, item: MediaItem, job: DecodeJob, read: Callable[[], Awaitable[bytes]]
    ) -> LoadedMedia:
        try:
            return await self._pool.decode(job, read)
        except MediaItemError:
            raise
        except MediaError as error:
            raise _refuse(item, str(error)) from error

    async def _fetch_and_decode(
        self, item: MediaItem, job: DecodeJob, budget: _Budget, request_id: str
    ) -> LoadedMedia:
        """Hold a place among the fetches until the thread has ended and the bytes are used."""
        try:
            async with asyncio.timeout(self._settings.max_wait_s):
                await self._fetches.acquire()
        except TimeoutError as error:
            raise BusyError("too many pictures are being fetched; ask again later") from error
        fetch: Future[bytes] | None = None
        try:
            source = replace(self._source, max_bytes=budget.room(item))
            fetch = self._threads.submit(_read, item.source, source)
            with stage("fetch"):
                data = await self._await_fetch(item, fetch, request_id)
            budget.take_bytes(len(data), item)

            async def read() -> bytes:
                return data

            return await self._decode(item, job, read)
        finally:
            if fetch is None or fetch.done() or fetch.cancel():
                self._fetches.release()
            else:
                loop = asyncio.get_running_loop()
                fetch.add_done_callback(lambda _: _release(loop, self._fetches))

    async def _await_fetch(self, item: MediaItem, fetch: Future[bytes], request_id: str) -> bytes:
        """Wait for a fetch; of what went wrong only the log tells, as it may tell of a network."""
        try:
            async with asyncio.timeout(self._settings.fetch_timeout_s + _GRACE_S):
                return await asyncio.wrap_future(fetch)
        except (MediaError, TimeoutError) as error:
            _LOGGER.info("request %s: %s", request_id, str(error) or "nobody answers in time")
            raise _refuse(
                item,
                "it cannot be fetched from its URL: the host is not allowed or does not answer, or "
                "there is nothing of a size that is taken; send the bytes as data:...",
            ) from error


class _Budget:
    """What one request may still take."""

    def __init__(self, settings: MediaSettings) -> None:
        self._settings = settings
        self._num_bytes, self._num_tiles = settings.max_total_bytes, settings.max_total_tiles

    def room(self, item: MediaItem) -> int:
        """Tell how many bytes an item may have."""
        settings = self._settings
        most = settings.max_image_bytes if item.kind == "image" else settings.max_video_bytes
        return max(1, min(most, self._num_bytes))

    def take_bytes(self, count: int, item: MediaItem) -> None:
        """Note bytes that are held."""
        self._num_bytes -= count
        if self._num_bytes < 0:
            most = self._settings.max_total_bytes
            raise _refuse(item, f"the media of the request are larger than {most} bytes in all")

    def take_tiles(self, count: int, item: MediaItem) -> None:
        """Note tiles that are handed out."""
        self._num_tiles -= count
        if self._num_tiles < 0:
            most = self._settings.max_total_tiles
            raise _refuse(item, f"the media of the request have more than {most} tiles in all")


def _refuse(item: MediaItem, message: str) -> MediaItemError:
    return MediaItemError(f"{item.where}: {message}" if item.where else message, item.where)


def _bound(item: MediaItem) -> tuple[float, float] | None:
    if item.bound is None:
        return None
    first, last = item.bound
    if not (math.isfinite(first) and math.isfinite(last) and 0 <= first <= last <= 1e9):
        raise _refuse(item, f"the stretch is {first:g} to {last:g} s; needed: 0 <= first <= last")
    return first, last


def _read(address: str, settings: SourceSettings) -> bytes:
    with open_media(address, settings) as (file, _):
        return file.read()


def _release(loop: asyncio.AbstractEventLoop, semaphore: asyncio.Semaphore) -> None:
    with suppress(RuntimeError):  # the loop has ended, and nobody waits
        loop.call_soon_threadsafe(semaphore.release)
