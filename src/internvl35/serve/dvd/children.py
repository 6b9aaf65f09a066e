"""Servers that a gateway starts on its own machine, watches, and starts again when they end.

What they do is left to their commands. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

_LOGGER = logging.getLogger("internvl35.serve")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_STEADY_S = 60.0
"""Seconds after which a child that ends counts as one that had begun well."""
_GRACE_S = 5.0
"""Seconds beyond its own patience that a child has to end."""


@dataclass(frozen=True)
class ChildCommand:
    """How a child is started."""

    name: str
    """What the log calls it."""
    arguments: tuple[str, ...]
    """Program and arguments; they hold no secret, since everybody on a machine can read them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What it gets beside our own environment."""


class Children:
    """Processes that live as long as this object; each ends when its standard input does.

    Args:
        commands: one a child.
        drain_timeout_s: seconds that a child takes to end its work when it is told to stop.
    """

    def __init__(self, commands: Sequence[ChildCommand], drain_timeout_s: float) -> None:
        """Start nobody yet."""
        self._commands, self._drain_timeout_s = tuple(commands), drain_timeout_s
        self._tasks: list[asyncio.Task[None]] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    @property
    def processes(self) -> dict[str, int]:
        """Process numbers of those that live, by name."""
        return {name: process.pid for name, process in self._processes.items()}

    async def start(self) -> None:
        """Start all of them; a second call is harmless."""
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._keep(command), name=f"keeps {command.name}")
                for command in self._commands
            ]

    async def close(self) -> None:
        """Tell all to end, and end those that do not."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._end(one) for one in self._processes.values()))
        self._processes.clear()

    async def _keep(self, command: ChildCommand) -> None:
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE_S
        while True:
            started = loop.time()
            process = await asyncio.create_subprocess_exec(
                *command.arguments, stdin=asyncio.subprocess.PIPE, start_new_session=True,
                env={**os.environ, **command.environment},
            )  # fmt: skip
            self._processes[command.name] = process
            _LOGGER.info("%s is process %d", command.name, process.pid)
            code = await process.wait()
            del self._processes[command.name]
            if loop.time() - started > _STEADY_S:
                pause = _FIRST_PAUSE_S
            _LOGGER.error("%s ended with %d; again in %.1f s", command.name, code, pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._drain_timeout_s + _GRACE_S):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def find_ports(count: int) -> list[int]:
    """Find ports of this machine's loopback that are free now.

    Args:
        count: how many.

    Returns:
        Ports, all different.
    """
    taken = []
    try:
        for _ in range(count):
            taken.append(socket.create_server(("127.0.0.1", 0)))
        return [one.getsockname()[1] for one in taken]
    finally:
        for one in taken:
            one.close()
