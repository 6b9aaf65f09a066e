"""The life of a vision or a language server: begins to listen, and drains when it is told to end.

Connections are left to :mod:`internvl35.serve.link_server`, requests to the rooms. No counterpart
in the paper.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import Any, Protocol

from internvl35.model.configuration import InternVLChatConfig
from internvl35.serve.link_server import LinkServer
from internvl35.serve.messages import Service

_LOGGER = logging.getLogger("internvl35.serve")


class PartService(Service, Protocol):
    """What serves a part of a checkpoint, and can tell that it has ended."""

    config: InternVLChatConfig
    """Of the checkpoint; its mark of pictures is the tokenizer's, where there is one."""

    def close(self) -> None:
        """End all work; a second call is harmless."""
        ...

    async def wait_failed(self) -> None:
        """Wait until it cannot work any more.

        Raises:
            BaseException: what ended it.
        """
        ...


async def run_server(
    server: LinkServer,
    service: PartService,
    drain_timeout_s: float,
    tell: Callable[[int], None],
) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the process at once.

    Args:
        server: not started yet.
        service: of the server.
        drain_timeout_s: most seconds for requests that are in work at the signal.
        tell: hears of the port once it is open.

    Raises:
        ConfigError: if the port cannot be had.
        BaseException: what ended the service, whose process should be started anew. One whose work
            stands still ends at once, with exit code 1.
    """
    loop, told_to_end = asyncio.get_running_loop(), asyncio.Event()
    signals = (signal.SIGTERM, signal.SIGINT)

    def end() -> None:
        told_to_end.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, end)
    await server.start()
    tell(server.port)
    ends = (told_to_end.wait(), service.wait_failed(), server.wait_stalled())
    waits: list[asyncio.Task[Any]] = [asyncio.create_task(end) for end in ends]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        if waits[2].done():
            _LOGGER.critical("work stands still; the process ends, to be started anew")
            os._exit(1)  # a thread that hangs cannot be ended otherwise
        if not told_to_end.is_set():
            await waits[1]
        _LOGGER.info("draining: %d requests are in work", server.num_requests)
        num_left = await server.drain(drain_timeout_s)
        if num_left:
            _LOGGER.warning("%d requests were cut off", num_left)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        await server.close()
