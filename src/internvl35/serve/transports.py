"""Bytes over one connection: a plain socket without copies, or TLS.

What the bytes mean is left to :mod:`internvl35.serve.link`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Transport(Protocol):
    """What a link needs of a connection."""

    async def read_into(self, view: memoryview) -> None:
        """Fill a buffer.

        Raises:
            OSError: if the connection broke or ended.
        """
        ...

    async def write(self, parts: Sequence[Buffer]) -> None:
        """Send buffers one after another; whoever leaves early must close the connection.

        Raises:
            OSError: if the connection broke.
        """
        ...

    def close(self) -> None:
        """End the connection; a second call is harmless."""
        ...


class SocketTransport:
    """A plain socket; tensors go from and to their own memory.

    Args:
        own: connected; belongs to the transport from now on.
    """

    def __init__(self, own: socket.socket) -> None:
        """Prepare the socket."""
        own.setblocking(False)
        own.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = own

    async def read_into(self, view: memoryview) -> None:
        """Fill a buffer; see :class:`Transport`."""
        loop = asyncio.get_running_loop()
        while view:
            count = await loop.sock_recv_into(self._socket, view)
            if not count:
                raise ConnectionResetError("the peer closed the connection")
            view = view[count:]

    async def write(self, parts: Sequence[Buffer]) -> None:
        """Send buffers; see :class:`Transport`."""
        loop = asyncio.get_running_loop()
        for part in parts:
            await loop.sock_sendall(self._socket, part)

    def close(self) -> None:
        """End the connection; nobody may be reading or writing."""
        self._socket.close()


class TlsTransport:
    """A connection under TLS.

    Args:
        reader: of the connection.
        writer: of the connection.
    """

    _PIECE = 256 * 1024

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Keep both ends."""
        self._reader, self._writer = reader, writer

    async def read_into(self, view: memoryview) -> None:
        """Fill a buffer; see :class:`Transport`."""
        while view:
            piece = await self._reader.read(min(len(view), self._PIECE))
            if not piece:
                raise ConnectionResetError("the peer closed the connection")
            view[: len(piece)] = piece
            view = view[len(piece) :]

    async def write(self, parts: Sequence[Buffer]) -> None:
        """Send buffers; see :class:`Transport`."""
        for part in parts:
            whole = memoryview(part).cast("B")
            for start in range(0, len(whole), self._PIECE):
                self._writer.write(whole[start : start + self._PIECE])
                await self._writer.drain()

    def close(self) -> None:
        """End the connection."""
        self._writer.transport.abort()


async def connect(
    host: str, port: int, context: ssl.SSLContext | None, name: str | None = None
) -> Transport:
    """Connect to a server.

    Args:
        host: its name or address.
        port: its port.
        context: for TLS; None for a plain socket.
        name: that the certificate has to bear under TLS; None for the host.

    Returns:
        The connection.

    Raises:
        OSError: if nobody answers, or the certificates are wrong.
    """
    if context is not None:
        opened = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name or host
        )
        return TlsTransport(*opened)
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    refusal = OSError(f"{host} has no address")
    for family, kind, protocol, _, address in found:
        own = socket.socket(family, kind, protocol)
        own.setblocking(False)
        try:
            await loop.sock_connect(own, address)
        except BaseException as error:
            own.close()
            if not isinstance(error, OSError):
                raise
            refusal = error
        else:
            return SocketTransport(own)
    raise refusal


async def accept(own: socket.socket, context: ssl.SSLContext | None) -> Transport:
    """Take over a connection that a listening socket accepted.

    Args:
        own: connected; belongs to the transport from now on.
        context: for TLS; None for a plain socket.

    Returns:
        The connection.

    Raises:
        OSError: if the certificates are wrong.
    """
    if context is None:
        return SocketTransport(own)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    under, _ = await loop.connect_accepted_socket(lambda: protocol, own, ssl=context)
    return TlsTransport(reader, asyncio.StreamWriter(under, protocol, reader, loop))
