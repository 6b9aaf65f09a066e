"""The vision stage of a request: tiles to a vision server, visual tokens back.

What came before a server was lost is not encoded again, but for tiles among which a router chooses.

No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from itertools import accumulate
from typing import Any

from internvl35.serve.dvd.attempts import attempts
from internvl35.serve.dvd.calls import Call
from internvl35.serve.dvd.peers import Pool
from internvl35.serve.dvd.visual_tokens import VisualTokens
from internvl35.serve.frames import WireError
from internvl35.serve.messages import Encode, Encoded, Features, Tiles, to_block
from internvl35.serve.stream import Stream
from internvl35.serve.tracing import write_parent


async def encode(pool: Pool, call: Call, tokens: VisualTokens, tiles_per_message: int) -> None:
    """Have the tiles of a request encoded, by as many servers as it takes.

    Args:
        pool: of vision servers.
        call: has tiles.
        tokens: takes what comes back, and what went wrong.
        tiles_per_message: tiles that travel together.
    """
    try:
        for attempt in attempts(pool, call.num_tiles, call.key, call.request_id):
            wanted = _begin(call, tokens)
            if not wanted:  # the last attempt failed behind its last tile
                return
            async with attempt as link:
                stream = await link.open(_open(call, attempt.number, wanted))
                async with beside(stream, _send(stream, call, wanted, tiles_per_message)):
                    await _read(stream, tokens, wanted)
                return
    except Exception as error:  # noqa: BLE001 - whoever waits for the tokens raises it
        tokens.fail(error)


def _begin(call: Call, tokens: VisualTokens) -> list[int]:
    """Number the tiles that are still to be encoded.

    Tiles among which a router chooses are encoded together, for another server's may choose
    otherwise: all tiles of the request where pictures are routed together, else a picture's.
    """
    missing = tokens.missing
    if call.choices is not None or not missing:
        return missing
    sizes = (call.num_tiles,) if call.flash.joins_pictures else call.tiles_per_picture
    stops = accumulate(sizes)
    groups = (range(stop - size, stop) for size, stop in zip(sizes, stops, strict=True))
    again = [tile for group in groups if not set(missing).isdisjoint(group) for tile in group]
    tokens.forget(again)
    return again


def _open(call: Call, attempt: int, wanted: list[int]) -> Encode:
    """Ask for some tiles; servers number those that they get from 0."""
    stops = accumulate(call.tiles_per_picture)
    pictures = Counter(bisect_right([*stops], tile) for tile in wanted)
    counts = tuple(pictures[picture] for picture in sorted(pictures))
    return Encode(
        call.wire_id, attempt, counts, call.flash, call.cache_salt, call.priority, write_parent()
    )


async def _read(stream: Stream, tokens: VisualTokens, wanted: list[int]) -> None:
    while not isinstance(message := await stream.receive(), Encoded):
        assert isinstance(message, Features)
        tokens.add(message, wanted)


async def _send(stream: Stream, call: Call, wanted: list[int], tiles_per_message: int) -> None:
    """Send tiles in groups that lie side by side, so that none is copied."""
    place = 0
    while place < len(wanted):
        first, count = wanted[place], 1
        while count < tiles_per_message and first + count in wanted[place + count :][:1]:
            count += 1
        some = call.levels[first : first + count].permute(0, 2, 3, 1)  # (n, H, W, 3)
        await stream.send(Tiles(call.wire_id, place, count, to_block(some)))
        place += count


@asynccontextmanager
async def beside(stream: Stream, sending: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Send while answers are read; the stream is closed in the end, or when sending fails.

    Args:
        stream: of the request.
        sending: ends by itself, or fails.

    Raises:
        InternVLError: what sending failed with, unless it is that the stream has ended.
    """
    task = asyncio.create_task(sending)
    task.add_done_callback(lambda done: _close_if_failed(done, stream))
    try:
        yield
    except WireError:
        if task.done() and not task.cancelled():
            error = task.exception()
            if error is not None and not isinstance(error, WireError):
                raise error from None
        raise
    finally:
        stream.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _close_if_failed(task: asyncio.Task[None], stream: Stream) -> None:
    """Wake who reads; a stream that could not be sent over wakes it itself, with the reason."""
    if not task.cancelled() and not isinstance(task.exception(), WireError | None):
        stream.close()
