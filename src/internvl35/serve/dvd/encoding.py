"""The vision stage of a request: tiles to a vision server, visual tokens back.

No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
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
            async with attempt as link:
                if call.choices is None:
                    tokens.clear()  # another server's router may choose otherwise
                stream = await link.open(_open(call, attempt.number))
                async with beside(stream, _send(stream, call, tiles_per_message)):
                    await _read(stream, tokens)
                return
    except Exception as error:  # noqa: BLE001 - whoever waits for the tokens raises it
        tokens.fail(error)


def _open(call: Call, attempt: int) -> Encode:
    counts = tuple(span.num_tiles for span in call.request.prompt.image_spans)
    return Encode(
        call.wire_id, attempt, counts, call.flash, call.cache_salt, call.priority, write_parent()
    )


async def _read(stream: Stream, tokens: VisualTokens) -> None:
    while not isinstance(message := await stream.receive(), Encoded):
        assert isinstance(message, Features)
        tokens.add(message)


async def _send(stream: Stream, call: Call, tiles_per_message: int) -> None:
    for first in range(0, call.num_tiles, tiles_per_message):
        some = call.levels[first : first + tiles_per_message].permute(0, 2, 3, 1)  # (n, H, W, 3)
        await stream.send(Tiles(call.wire_id, first, len(some), to_block(some)))


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
