"""Tensors over UCX, which takes the fastest way between two hosts: InfiniBand, RoCE, or TCP.

Heads of frames stay on the connection, whose handshake tells each side the other's address and the
tags of this link, so nobody is spoken to over UCX who has not proved who he is. When tensors are
sent and checked is left to :mod:`internvl35.serve.frame_pipe`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from internvl35.serve.transports import Buffer


class UcxTransport:
    """Tensors of one link; one message a part, which the reader has to ask for in the same parts.

    Args:
        endpoint: of ``ucxx``; belongs to the transport from now on.
        outgoing: tag of what we send, which nobody else uses.
        incoming: tag of what we read.
    """

    def __init__(self, endpoint: Any, outgoing: int, incoming: int) -> None:
        """Keep the endpoint."""
        self._endpoint = endpoint
        self._outgoing, self._incoming = outgoing, incoming
        self._under_way: set[asyncio.Task[None]] = set()

    async def read_into(self, view: memoryview) -> None:
        """Fill a buffer; see ``Transport``."""
        await self._finish(self._endpoint.recv(view, tag=self._incoming, force_tag=True))

    async def write(self, parts: Sequence[Buffer]) -> None:
        """Send buffers; see ``Transport``."""
        for part in parts:
            await self._finish(self._endpoint.send(part, tag=self._outgoing, force_tag=True))

    def close(self) -> None:
        """End what is under way; nobody may be reading or writing."""
        self._endpoint.abort()

    async def _finish(self, transfer: Coroutine[Any, Any, None]) -> None:
        """Wait for a transfer; one that nobody waits for any more has its buffer until it ends."""
        from ucxx.exceptions import UCXError

        task = asyncio.ensure_future(transfer)
        self._under_way.add(task)
        task.add_done_callback(self._end)
        try:
            await asyncio.shield(task)
        except UCXError as error:
            raise ConnectionResetError(f"UCX gave up: {error}") from error

    def _end(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        _ = task.cancelled() or task.exception()  # seen, even if nobody waits


def tell_address() -> str:
    """Say where UCX reaches this process; the first call starts UCX.

    Returns:
        The address in hexadecimal digits.
    """
    import ucxx

    return bytes(ucxx.get_worker_address()).hex()


async def reach(address: str, outgoing: int, incoming: int) -> UcxTransport:
    """Reach a process over UCX.

    Args:
        address: of its :func:`tell_address`, told by somebody who proved who he is.
        outgoing: tag of what we send.
        incoming: tag of what we read.

    Returns:
        The transport.

    Raises:
        OSError: if it cannot be reached.
    """
    import ucxx
    from ucxx.exceptions import UCXError

    try:
        found = ucxx.get_ucx_address_from_buffer(bytes.fromhex(address))
        endpoint = await ucxx.create_endpoint_from_worker_address(found)
    except (UCXError, ValueError) as error:
        raise ConnectionError(f"UCX cannot reach the peer: {error}") from error
    return UcxTransport(endpoint, outgoing, incoming)
