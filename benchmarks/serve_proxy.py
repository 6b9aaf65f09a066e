"""A proxy between a gateway and a server that does to frames what bad networks do."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from internvl35.serve.frames import HEADER_BYTES, FrameLimits, unpack_header

Fault: TypeAlias = Literal[
    "none", "slow", "stall", "cut", "corrupt", "duplicate", "reorder", "truncate"
]
"""What happens to frames: nothing, they come late, never (while the connection stays open), the
connection breaks, or every now and then one is changed, sent twice, swapped with the next, or
broken off in its middle."""

_EVERY = 25
"""Of so many frames, one is hit."""
_HANDSHAKE = 4
"""First frames of a connection, which are left alone: they are tested elsewhere."""


@dataclass(frozen=True)
class Plan:
    """What a proxy does."""

    fault: Fault = "none"
    """To frames."""
    delay_s: float = 0.05
    """Seconds by which ``slow`` holds each frame back."""


class FaultyProxy:
    """Hands frames on from a gateway to one server and back.

    Args:
        target: port of the server, on this machine.
    """

    def __init__(self, target: int) -> None:
        """Do nothing to frames until :meth:`do`."""
        self.target = target
        self.num_hit = 0
        self._plan = Plan()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """Where it listens."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def start(self) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def close(self) -> None:
        """End all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def do(self, fault: Fault) -> None:
        """Treat frames otherwise from now on; ``cut`` breaks the connections there are."""
        self._plan = replace(self._plan, fault=fault)
        if fault == "cut":
            for task in self._tasks:
                task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        other: asyncio.StreamWriter | None = None
        try:
            back, other = await asyncio.open_connection("127.0.0.1", self.target)
            ways = [
                asyncio.create_task(self._pass_on(reader, other)),
                asyncio.create_task(self._pass_on(back, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, or the case is over
        finally:
            self._tasks.discard(task)
            for end in (writer, other):
                if end is not None:
                    end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number, held = 0, b""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                frame = await _read_frame(reader)
                number += 1
                fault = self._plan.fault if number > _HANDSHAKE else "none"
                if fault == "stall":
                    self.num_hit += 1
                    await asyncio.Event().wait()
                if fault == "slow":
                    self.num_hit += 1
                    await asyncio.sleep(self._plan.delay_s)
                is_hit = number % _EVERY == 0
                if held:
                    frame, held = frame + held, b""
                elif is_hit and fault in ("corrupt", "duplicate", "reorder", "truncate"):
                    self.num_hit += 1
                    if fault == "reorder":
                        held = frame
                        continue
                    frame = _damage(frame, fault)
                writer.write(frame)
                await writer.drain()
                if is_hit and fault == "truncate":
                    return


def _damage(frame: bytes, fault: Fault) -> bytes:
    middle = len(frame) // 2
    if fault == "corrupt":
        return frame[:middle] + bytes([frame[middle] ^ 1]) + frame[middle + 1 :]
    return frame + frame if fault == "duplicate" else frame[:middle]


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    raw = await reader.readexactly(HEADER_BYTES)
    header = unpack_header(raw, FrameLimits())
    payload_bytes = 0 if header.shared_at is not None else header.payload_bytes
    return raw + await reader.readexactly(header.meta_bytes + payload_bytes)
