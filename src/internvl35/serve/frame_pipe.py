"""Frames over one connection, in both directions: numbered, sealed, and within limits.

What frames mean is left to :mod:`internvl35.serve.link`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import numpy as np

from internvl35.errors import ConfigError
from internvl35.serve.frames import (
    HEADER_BYTES,
    Block,
    ChecksumSeal,
    FrameLimits,
    Header,
    NackCode,
    Seal,
    WireError,
    check_head,
    check_payload,
    pack_head,
    sealed,
    unpack_header,
)
from internvl35.serve.handshake import Acquaintance
from internvl35.serve.transports import Buffer, Transport

_LARGE = 256 * 1024
"""Bytes from which a tensor is sealed in another thread and may go beside the connection."""
_PIECE = 4 * 2**20
"""Bytes after which a peer that is sending counts as alive again; both sides cut tensors there,
since some transports keep the bounds of what was written."""


@dataclass(frozen=True)
class LinkSettings:
    """How patient a connection is, and how much it takes."""

    ping_every_s: float = 2.0
    """Seconds between two pings."""
    dead_after_s: float = 10.0
    """Seconds without a byte after which the peer counts as gone."""
    stalled_after_s: float = 120.0
    """Seconds for which a server's work may stand still before the server counts as gone, whatever
    else it answers; longer than any step takes."""
    lease_s: float = 30.0
    """Seconds after which a server ends a request that its gateway does not name any more."""
    handshake_s: float = 5.0
    """Most seconds until both sides know each other."""
    limits: FrameLimits = field(default_factory=FrameLimits)
    """The largest frame."""

    def __post_init__(self) -> None:
        """Refuse patience that no ping can satisfy."""
        if not 0 < self.ping_every_s < min(self.dead_after_s, self.lease_s):
            raise ConfigError(
                f"ping_every_s is {self.ping_every_s}; needed: above 0, and less than dead_after_s "
                f"({self.dead_after_s}) and lease_s ({self.lease_s})"
            )
        for name in ("handshake_s", "stalled_after_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; needed: above 0")


class FramePipe:
    """Reads and writes the frames of one connection; one reader and one writer at a time.

    Args:
        transport: belongs to the pipe from now on.
        fingerprint: of our own checkpoint and preprocessing.
        found: what the handshake led to.
        limits: the largest frame.
    """

    def __init__(
        self, transport: Transport, fingerprint: bytes, found: Acquaintance, limits: FrameLimits
    ) -> None:
        """Begin to count in both directions."""
        self.heard_at = asyncio.get_running_loop().time()
        self._transport, self._fingerprint = transport, fingerprint
        self._found, self._limits = found, limits
        self._num_read = self._num_sent = 0
        self._raw = bytearray(HEADER_BYTES)

    async def write(self, header: Header, meta: bytes, payload: Block | None) -> None:
        """Send a frame.

        Args:
            header: without what the connection adds.
            meta: its fields.
            payload: its tensor.

        Raises:
            OSError: if the connection broke.
        """
        ring, seal = self._found.ring, self._found.outgoing
        is_large = payload is not None and payload.num_bytes >= _LARGE
        shared_at = None
        if ring is not None and payload is not None and is_large:
            shared_at = ring.put(payload.data)
        header = replace(header, sequence=self._num_sent, shared_at=shared_at)
        payload_seal = seal if shared_at is None else ChecksumSeal()
        if is_large:
            header = await asyncio.to_thread(sealed, header, payload, payload_seal)
        else:
            header = sealed(header, payload, payload_seal)
        head = pack_head(header, meta, seal, self._fingerprint)
        self._num_sent += 1
        pieces: list[Buffer] = []
        if payload is not None and payload.num_bytes and shared_at is None:
            data = memoryview(payload.data).cast("B")
            pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
        way = self._way(header)
        if way is self._transport:
            await way.write([head, *pieces])
            return
        await self._transport.write([head])
        await way.write(pieces)

    def check_size(self, header: Header, payload: Block | None) -> None:
        """Refuse to send what no peer takes.

        Args:
            header: of a message.
            payload: its tensor.

        Raises:
            WireError: if it is larger than the limits.
        """
        num_bytes = 0 if payload is None else payload.num_bytes
        limits = self._limits
        if header.meta_bytes > limits.meta_bytes or num_bytes > limits.payload_bytes:
            raise WireError(
                NackCode.TOO_LARGE,
                f"a message has {header.meta_bytes} bytes of fields and {num_bytes} of a tensor; "
                f"needed: {limits.meta_bytes} and {limits.payload_bytes} at most; send it in parts",
            )

    async def read_head(self) -> tuple[Header, bytearray]:
        """Read a frame up to its tensor.

        Returns:
            The header and the fields; digest, number and fingerprint are right.

        Raises:
            WireError: if one of them is wrong; nothing can be read any more.
            OSError: if the connection broke.
        """
        await self._read(memoryview(self._raw), self._transport)
        header = unpack_header(self._raw, self._limits)
        meta = bytearray(header.meta_bytes)
        await self._read(memoryview(meta), self._transport)
        check_head(
            self._raw, meta, self._found.incoming,
            fingerprint=self._fingerprint, sequence=self._num_read,
        )  # fmt: skip
        self._num_read += 1
        return header, meta

    async def read_payload(self, header: Header) -> memoryview | None:
        """Read the tensor of a frame.

        Args:
            header: of the frame, whose tensor is wanted.

        Returns:
            Its bytes; None if there is none.

        Raises:
            WireError: if its digest is wrong; nothing can be read any more.
            OSError: if the connection broke.
        """
        if header.dtype == "none":
            return None
        payload: memoryview = np.empty(header.payload_bytes, dtype=np.uint8).data
        seal: Seal = self._found.incoming
        if header.shared_at is None:
            await self._read(payload, self._way(header))
        else:
            self._take_shared(header.shared_at, payload)
            seal = ChecksumSeal()  # nobody else can write there
        if header.payload_bytes >= _LARGE:
            await asyncio.to_thread(check_payload, header, payload, seal)
        else:
            check_payload(header, payload, seal)
        return payload

    async def skip_payload(self, header: Header) -> None:
        """Pass over the tensor of a frame without room for it.

        Args:
            header: of the frame.

        Raises:
            OSError: if the connection broke.
        """
        if header.shared_at is not None:
            return
        scratch, left = bytearray(min(header.payload_bytes, _PIECE)), header.payload_bytes
        while left:
            piece = memoryview(scratch)[:left]
            await self._read(piece, self._way(header))
            left -= len(piece)

    async def discard(self) -> None:
        """Read on until the peer hangs up, so that it can still read why we do.

        Raises:
            OSError: when the connection has ended.
        """
        scratch = memoryview(bytearray(_LARGE))
        while True:
            await self._transport.read_into(scratch)

    def free(self, num_bytes: int) -> None:
        """Use memory again that the peer has read.

        Args:
            num_bytes: as the peer says.

        Raises:
            WireError: if that is not what it got.
        """
        try:
            if self._found.ring is None:
                raise ValueError("no memory is shared")
            self._found.ring.free(num_bytes)
        except ValueError as error:
            raise WireError(NackCode.MALFORMED, str(error)) from error

    def close(self) -> None:
        """End the connection; nobody may be reading or writing."""
        self._transport.close()
        if self._found.fast is not None:
            self._found.fast.close()
        if self._found.ring is not None:
            self._found.ring.close()

    def _way(self, header: Header) -> Transport:
        """Say what the tensor of a frame travels over, if not through shared memory."""
        is_beside = header.payload_bytes >= _LARGE and header.shared_at is None
        return (self._found.fast if is_beside else None) or self._transport

    async def _read(self, view: memoryview, way: Transport) -> None:
        """Fill a buffer and notice that the peer lives."""
        for start in range(0, len(view), _PIECE):
            await way.read_into(view[start : start + _PIECE])
            self.heard_at = asyncio.get_running_loop().time()

    def _take_shared(self, start: int, payload: memoryview) -> None:
        try:
            if self._found.ring is None:
                raise ValueError("no memory is shared")
            self._found.ring.take(start, payload)
        except ValueError as error:
            raise WireError(NackCode.MALFORMED, str(error)) from error
