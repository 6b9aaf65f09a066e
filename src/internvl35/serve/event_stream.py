"""Answers that come in parts: server-sent events, and work that ends when its reader goes away.

What the events say is left to the routes. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")


class ReaderGoneError(Exception):
    """The client closed its connection, so that nobody reads what would be answered."""


async def while_read(receive: Receive, work: Awaitable[T], until: float) -> T:
    """Do work for as long as the client waits for it.

    Args:
        receive: tells what the client does; its body has been read.
        work: is cancelled if the client goes, or its time is up.
        until: by the event loop's clock.

    Returns:
        What the work does.

    Raises:
        ReaderGoneError: if the client went.
        TimeoutError: if the time is up.
    """
    doing = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_for_end(receive))
    try:
        left = until - asyncio.get_running_loop().time()
        await asyncio.wait(
            {doing, watching}, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED
        )
        if doing.done():
            return doing.result()
        if watching.done():
            raise ReaderGoneError
        raise TimeoutError
    finally:
        for task in (watching, doing):
            task.cancel()
        await asyncio.gather(watching, doing, return_exceptions=True)


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Sends events while they come up.

    Args:
        events: JSON values, or texts that are sent as they are.
        refuse: makes an event of what went wrong; after it nothing more is sent.
        held: is closed when the stream ends, whichever way.
        until: by the event loop's clock.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[Mapping[str, Any] | str],
        refuse: Callable[[BaseException], Mapping[str, Any]],
        held: AsyncExitStack,
        until: float,
    ) -> None:
        """Send nothing yet."""
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events, self._refuse, self._held, self._until = events, refuse, held, until

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all events."""
        async with self._held:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            try:
                await while_read(receive, self._send_all(send), self._until)
            except ReaderGoneError as error:
                self._refuse(error)  # counted, told nobody
                return
            except asyncio.CancelledError:  # the server's patience has ended
                await _send(send, self._refuse(asyncio.CancelledError()))
                raise
            except Exception as error:  # noqa: BLE001 - the status is sent; an event says it
                await _send(send, self._refuse(error))
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        async for event in self._events:
            await _send(send, event)


async def _send(send: Send, event: Mapping[str, Any] | str) -> None:
    text = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
    kind = event.get("type", "") if isinstance(event, Mapping) else ""
    name = f"event: {kind}\n" if kind else ""
    data = f"{name}data: {text}\n\n".encode("utf-8", "backslashreplace")
    await send({"type": "http.response.body", "body": data, "more_body": True})
