"""Processes that decode, from the side of who starts them: every word they say is checked.

A process that is late, dies or says what cannot be is killed with its children, and another one
takes its place. What they do is left to :mod:`internvl35.serve.media_worker`. No counterpart in the
paper.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from internvl35.data.tiles import choose_grid, count_tiles
from internvl35.errors import BusyError, MediaError, ServerError
from internvl35.serve.media import LoadedMedia
from internvl35.serve.media_worker import HEAD, MAX_JSON_BYTES, DecodeJob
from internvl35.serve.tracing import stage

_LOGGER = logging.getLogger(__name__)

_GRACE_S = 2.0
"""Seconds beyond a job's own limit after which the process itself counts as hung."""

_START_S = 60.0
"""Seconds more for the first job of a process, which imports its libraries first."""

_MAX_ERROR_CHARACTERS = 500


class _WorkerFault(Exception):
    """A process died, hung or said what cannot be."""


class DecodePool:
    """Decodes pictures and videos in processes that may die.

    Args:
        num_workers: processes, each of which does one job at a time; they are started when needed.
        max_wait_s: seconds that a job waits for one.
        command: what is started; for tests.
    """

    def __init__(
        self, num_workers: int, max_wait_s: float, command: Sequence[str] | None = None
    ) -> None:
        """Start nothing yet."""
        self._command = command or (sys.executable, "-P", "-m", "internvl35.serve.media_worker")
        self._free = asyncio.Semaphore(num_workers)
        self._max_wait_s = max_wait_s
        self._idle: list[asyncio.subprocess.Process] = []
        self._used: set[asyncio.subprocess.Process] = set()
        self._dying: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def decode(self, job: DecodeJob, read: Callable[[], Awaitable[bytes]]) -> LoadedMedia:
        """Do a job; a process that dies of something else than the job is replaced once.

        Args:
            job: how.
            read: gives the file when it is the job's turn.

        Returns:
            The tiles.

        Raises:
            MediaError: if the picture or video cannot be decoded, or a limit is met.
            BusyError: if no process becomes free in time.
            ServerError: if the pool is closed, or processes cannot be started.
        """
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise BusyError("too many pictures are being decoded; ask again later") from error
        try:
            data = await read()
            with stage("tiling"):
                return await self._try_twice(job, data)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Kill all processes; nothing can be decoded afterwards."""
        self._is_closed = True
        for process in (*self._idle, *self._used):
            self._kill(process)
        self._idle.clear()
        if self._dying:
            await asyncio.wait(self._dying, timeout=_GRACE_S)

    async def _try_twice(self, job: DecodeJob, data: bytes) -> LoadedMedia:
        try:
            return await self._try(job, data)
        except _WorkerFault as fault:
            _LOGGER.warning("a decoding process was replaced: %s", fault)
        try:
            return await self._try(job, data)
        except _WorkerFault as fault:
            _LOGGER.warning("a decoding process failed again: %s", fault)
            raise _undecodable() from fault

    async def _try(self, job: DecodeJob, data: bytes) -> LoadedMedia:
        process, is_new = await self._take()
        self._used.add(process)
        is_whole = False
        try:
            if self._is_closed:  # while the process was started
                raise _stopping()
            limit_s = job.timeout_s + _GRACE_S + (_START_S if is_new else 0.0)
            async with asyncio.timeout(limit_s):
                said, levels = await _exchange(process, job, data)
            is_whole = True
        except TimeoutError as error:
            raise _WorkerFault("it did not answer in time") from error
        except (OSError, EOFError, ValueError, RecursionError) as error:
            raise _WorkerFault(type(error).__name__) from error
        finally:  # cancelled, too: what is under way is of no use to anyone
            self._used.discard(process)
            if is_whole and not self._is_closed:
                self._idle.append(process)
            else:
                self._kill(process)
        return _understand(job, said, levels)

    async def _take(self) -> tuple[asyncio.subprocess.Process, bool]:
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process, False
        if self._is_closed:
            raise _stopping()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                env=_environment(),
                start_new_session=True,  # killed as a whole, and not by Ctrl-C
                limit=1 << 20,
            )
        except OSError as error:
            raise ServerError("no process that decodes can be started") from error
        return process, True

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        """Kill a process with its children, and see it off."""
        if process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
        task = asyncio.get_running_loop().create_task(_see_off(process))
        self._dying.add(task)
        task.add_done_callback(self._dying.discard)


def _environment() -> dict[str, str]:
    """List what a decoding process may know: where Python's modules are, and no secret."""
    one_thread = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "MALLOC_ARENA_MAX": "2",
        **dict.fromkeys(one_thread, "1"),
    }


async def _see_off(process: asyncio.subprocess.Process) -> None:
    """Read what a killed process left, without which asyncio never closes its pipes."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    with suppress(OSError):
        while await process.stdout.read(1 << 20):
            pass
    await process.wait()


async def _exchange(
    process: asyncio.subprocess.Process, job: DecodeJob, data: bytes
) -> tuple[dict[str, Any], bytes]:
    """Hand a job over and read the reply, of no more bytes than the job can have."""
    assert process.stdin is not None
    assert process.stdout is not None
    text = job.write()
    process.stdin.write(HEAD.pack(len(text), len(data)) + text)
    process.stdin.write(data)
    await process.stdin.drain()
    text_size, size = HEAD.unpack(await process.stdout.readexactly(HEAD.size))
    if text_size > MAX_JSON_BYTES or size > job.max_tiles * _tile_bytes(job):
        raise ValueError("a reply of more bytes than the job can have")
    said = json.loads(await process.stdout.readexactly(text_size))
    if not isinstance(said, dict):
        raise ValueError("a reply that is no object")
    return said, await process.stdout.readexactly(size)


def _tile_bytes(job: DecodeJob) -> int:
    return 3 * job.tiles.tile_size**2


def _understand(job: DecodeJob, said: dict[str, Any], levels: bytes) -> LoadedMedia:
    """Check a reply against what the job can have, and make tiles of it."""
    if "error" in said:
        text = str(said["error"])[:_MAX_ERROR_CHARACTERS]
        raise MediaError(text if text.isprintable() else "it cannot be decoded")
    fault = said.get("fault")
    if fault == "time":
        raise MediaError(f"it takes longer than {job.timeout_s:g} s to decode; make it smaller")
    if fault is not None:
        _LOGGER.warning("decoding ended with %.100r", fault)
        raise _undecodable()
    sizes = _read_sizes(job, said.get("sizes"))
    counts = tuple(count_tiles(*size, job.tiles) for size in sizes)
    if len(levels) != sum(counts) * _tile_bytes(job):
        raise _undecodable()
    side = job.tiles.tile_size
    return LoadedMedia(
        np.frombuffer(levels, np.uint8).reshape(sum(counts), 3, side, side),
        tuple(choose_grid(*size, job.tiles) for size in sizes),
        counts,
        _read_times(job, said.get("timestamps_s")),
    )


def _read_sizes(job: DecodeJob, sizes: object) -> list[tuple[int, int]]:
    """Read the sizes of the picture, or of each frame."""
    needed = 1 if job.kind == "image" else job.num_frames
    if not isinstance(sizes, list) or len(sizes) != needed:
        raise _undecodable()
    most = max(job.images.max_side, job.videos.max_frame_pixels)
    for size in sizes:
        if not isinstance(size, list) or len(size) != 2:
            raise _undecodable()
        if not all(type(side) is int and 1 <= side <= most for side in size):
            raise _undecodable()
    return [(width, height) for width, height in sizes]


def _read_times(job: DecodeJob, times: object) -> tuple[float, ...]:
    """Read the times of the frames."""
    needed = 0 if job.kind == "image" else job.num_frames
    if not isinstance(times, list) or len(times) != needed:
        raise _undecodable()
    if not all(type(time_s) in (int, float) and math.isfinite(time_s) for time_s in times):
        raise _undecodable()
    return tuple(float(time_s) for time_s in times)


def _stopping() -> ServerError:
    return ServerError("media are not loaded any more; the server is stopping")


def _undecodable() -> MediaError:
    return MediaError("it cannot be decoded; send it in another format")
