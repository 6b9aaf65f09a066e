"""The bytes of one frame between servers: a fixed header, some JSON fields, a tensor's numbers.

What the fields mean is left to :mod:`internvl35.serve.messages`; sockets and keys to
:mod:`internvl35.serve.link`. Nothing here waits, and nothing builds an object from bytes of others
but numbers and texts. No counterpart in the paper.
"""

from __future__ import annotations

import hmac
import math
import zlib
from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import blake2b
from struct import Struct
from typing import Literal, Protocol, TypeAlias, get_args

from internvl35.errors import ConfigError, ServerError

MAGIC = b"IV35"
VERSION = 2
"""Of the wire; peers of different versions refuse each other."""

DIGEST_BYTES = 16
ID_BYTES = 16
NO_REQUEST = "00" * ID_BYTES
"""The id of frames that belong to no request."""

_LAYOUT = Struct("<4sBBBBQ16s16sIIIHHQQ4I16s")
HEADER_BYTES = _LAYOUT.size + DIGEST_BYTES
_MAX_RANK = 4
_SHARED = 1
"""The one flag there is: the payload lies in shared memory."""

DType: TypeAlias = Literal["none", "u8", "i32", "f16", "bf16", "f32"]
"""Of a payload; ``none`` if there is none."""
_ITEM_BYTES: dict[DType, int] = {"none": 0, "u8": 1, "i32": 4, "f16": 2, "bf16": 2, "f32": 4}
_DTYPES: tuple[DType, ...] = get_args(DType)


class NackCode(StrEnum):
    """Why a frame, a request or a connection is refused."""

    MALFORMED = "malformed"
    """The bytes are no frame, or its fields no message."""
    VERSION = "version"
    """Another version of the wire."""
    INCOMPATIBLE = "incompatible"
    """Another checkpoint, or other preprocessing."""
    UNAUTHENTICATED = "unauthenticated"
    """The peer does not hold the secret."""
    CORRUPT = "corrupt"
    """A digest is wrong: the bytes changed on their way."""
    OUT_OF_ORDER = "out_of_order"
    """A frame was lost, repeated or overtaken."""
    TOO_LARGE = "too_large"
    """More bytes, tiles or tokens than agreed."""
    UNPLANNED = "unplanned"
    """Numbers that do not fit what the request needs."""
    DUPLICATE = "duplicate"
    """The request is in work, or was answered a short while ago."""
    UNKNOWN_REQUEST = "unknown_request"
    """Nobody opened it, or its lease ended."""
    BUSY = "busy"
    """No room; try again later or elsewhere."""
    DRAINING = "draining"
    """The server ends and takes nothing new; try elsewhere."""
    EXPIRED = "expired"
    """The lease ended before the answer."""
    WRONG_REQUEST = "wrong_request"
    """The request itself cannot be answered, here or elsewhere."""
    LOST = "lost"
    """The connection broke; try elsewhere."""
    INTERNAL = "internal"
    """The server failed; try elsewhere."""

    @property
    def is_retryable(self) -> bool:
        """Whether the same request may succeed at another time or place."""
        return self not in {
            NackCode.WRONG_REQUEST, NackCode.TOO_LARGE, NackCode.DUPLICATE, NackCode.INCOMPATIBLE
        }  # fmt: skip


class WireError(ServerError):
    """A frame, a request or a connection is refused.

    Args:
        code: why, for programs.
        message: what was found, what was needed.
        retry_after_s: when to try again; None if that is not known.
    """

    def __init__(self, code: NackCode, message: str, retry_after_s: float | None = None) -> None:
        """Keep the code beside the message."""
        super().__init__(message)
        self.code = code
        self.retry_after_s = retry_after_s

    def anew(self) -> WireError:
        """Make the same error without traceback and cause, whose frames hold tensors."""
        return WireError(self.code, str(self), self.retry_after_s)


@dataclass(frozen=True)
class FrameLimits:
    """The largest frame that is taken."""

    meta_bytes: int = 4 * 2**20
    """Most bytes of its JSON fields."""
    payload_bytes: int = 128 * 2**20
    """Most bytes of its tensor."""

    def __post_init__(self) -> None:
        """Refuse limits that the header cannot state, and those of nothing."""
        for name, least in (("meta_bytes", 1024), ("payload_bytes", 0)):
            if not least <= getattr(self, name) < 2**32:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}; needed: {least} to {2**32 - 1}"
                )


@dataclass(frozen=True)
class Header:
    """What stands in front of a frame's bytes."""

    kind: int
    """Number of the message's type, 1 to 255."""
    request_id: str = NO_REQUEST
    """Of the request, as 32 hexadecimal digits."""
    attempt: int = 0
    """How often the request was sent before, to 65,535."""
    first_tile: int = 0
    """First tile of the request that the payload holds."""
    num_tiles: int = 0
    """Tiles that it holds."""
    dtype: DType = "none"
    """Of its numbers."""
    shape: tuple[int, ...] = ()
    """Of its tensor, row-major."""
    meta_bytes: int = 0
    """Length of the JSON fields."""
    payload_bytes: int = 0
    """Length of the tensor's bytes."""
    shared_at: int | None = None
    """Where the payload begins in the memory that both sides share; None if it follows."""
    sequence: int = 0
    """Frames that its sender sent before on this connection."""
    payload_digest: bytes = bytes(DIGEST_BYTES)
    """Over the payload."""


class Seal(Protocol):
    """Makes digests by which a change is noticed."""

    def digest(self, purpose: bytes, *parts: bytes | bytearray | memoryview) -> bytes:
        """Return 16 bytes that depend on the purpose and on all bytes of the parts."""
        ...


class ChecksumSeal:
    """Notices accidents but no attacks: for TLS, which notices attacks, and for tests."""

    def digest(self, purpose: bytes, *parts: bytes | bytearray | memoryview) -> bytes:
        """Return a CRC-32, filled up with zeros."""
        value = zlib.crc32(purpose)
        for part in parts:
            value = zlib.crc32(part, value)
        return value.to_bytes(DIGEST_BYTES, "little")


class MacSeal:
    """Notices attacks by those who do not hold the key.

    Args:
        key: of one direction of one connection, 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        """Keep the key."""
        assert len(key) == 32
        self._key = key

    def digest(self, purpose: bytes, *parts: bytes | bytearray | memoryview) -> bytes:
        """Return a keyed BLAKE2b."""
        state = blake2b(digest_size=DIGEST_BYTES, key=self._key, person=purpose)
        for part in parts:
            state.update(part)
        return state.digest()


def pack_head(header: Header, meta: bytes, seal: Seal, fingerprint: bytes) -> bytes:
    """Write what goes in front of a payload.

    Args:
        header: its payload digest is made by the same seal, for the purpose ``payload``.
        meta: JSON fields, as long as the header says.
        seal: of this direction.
        fingerprint: 16 bytes for checkpoint and preprocessing.

    Returns:
        Header and fields.
    """
    assert len(meta) == header.meta_bytes
    assert 0 < header.kind < 256
    assert len(header.shape) <= _MAX_RANK
    packed = _LAYOUT.pack(
        MAGIC, VERSION, header.kind, _DTYPES.index(header.dtype), len(header.shape),
        header.sequence, bytes.fromhex(header.request_id), fingerprint,
        header.first_tile, header.num_tiles, header.meta_bytes,
        0 if header.shared_at is None else _SHARED, header.attempt,
        header.payload_bytes, header.shared_at or 0,
        *header.shape, *[0] * (_MAX_RANK - len(header.shape)), header.payload_digest,
    )  # fmt: skip
    return packed + seal.digest(b"head", packed, meta) + meta


def unpack_header(raw: bytes | bytearray, limits: FrameLimits) -> Header:
    """Read a header, and refuse one whose frame must not be read.

    Its digest covers the fields behind it, too, and is left to :func:`check_head`; nothing of the
    header may be acted on before, but how many bytes of fields to read.

    Args:
        raw: 128 bytes.
        limits: the largest frame.

    Returns:
        The header.

    Raises:
        WireError: if it is none, or too large.
    """
    magic, version, kind, dtype_index, rank, sequence, request_id, _, *rest = _LAYOUT.unpack_from(
        raw
    )
    first_tile, num_tiles, meta_bytes, flags, attempt, payload_bytes, shared_at, *shape, digest = (
        rest
    )
    if magic != MAGIC:
        raise _malformed("these bytes are no frame; connect to a server of this package")
    if version != VERSION:
        raise WireError(
            NackCode.VERSION,
            f"the wire has version {version}; needed: {VERSION}; install equal versions",
        )
    for name, found, limit in (
        ("fields", meta_bytes, limits.meta_bytes), ("a tensor", payload_bytes, limits.payload_bytes)
    ):  # fmt: skip
        if found > limit:
            raise WireError(
                NackCode.TOO_LARGE, f"a frame has {name} of {found} bytes; needed: {limit} at most"
            )
    if not kind or dtype_index >= len(_DTYPES) or rank > _MAX_RANK or flags & ~_SHARED:
        raise _malformed("a header names a kind, a dtype, a rank or a flag that does not exist")
    sides = tuple(shape[:rank])
    needed = math.prod(sides) * _ITEM_BYTES[_DTYPES[dtype_index]]
    if any(shape[rank:]) or needed != payload_bytes or (dtype_index == 0 and rank):
        raise _malformed(
            f"a tensor of shape {sides} and dtype {_DTYPES[dtype_index]} has {payload_bytes} "
            f"bytes; needed: {needed}"
        )
    if shared_at and not flags & _SHARED:
        raise _malformed("a header says where in shared memory a payload is that is not there")
    return Header(
        kind, request_id.hex(), attempt, first_tile, num_tiles, _DTYPES[dtype_index], sides,
        meta_bytes, payload_bytes, shared_at if flags & _SHARED else None, sequence, digest,
    )  # fmt: skip


def check_head(
    raw: bytes | bytearray,
    meta: bytes | bytearray,
    seal: Seal,
    *,
    fingerprint: bytes,
    sequence: int,
) -> None:
    """Refuse a head that was changed, lost its place, or is of another checkpoint.

    Args:
        raw: the header's 128 bytes.
        meta: the fields behind it.
        seal: of this direction.
        fingerprint: of our own checkpoint and preprocessing.
        sequence: frames of this direction that came before.

    Raises:
        WireError: if it is wrong; the connection cannot be trusted from here on.
    """
    body = memoryview(raw)[: _LAYOUT.size]
    if not hmac.compare_digest(seal.digest(b"head", body, meta), bytes(raw[_LAYOUT.size :])):
        raise WireError(NackCode.CORRUPT, "the digest of a header and its fields is wrong")
    values = _LAYOUT.unpack_from(raw)
    if values[5] != sequence:
        raise WireError(
            NackCode.OUT_OF_ORDER, f"a frame has number {values[5]}; needed: {sequence}"
        )
    if values[7] != fingerprint:
        raise WireError(
            NackCode.INCOMPATIBLE,
            "a frame is of another checkpoint or other preprocessing; start all servers with the "
            "same checkpoint",
        )


def check_payload(header: Header, payload: bytes | bytearray | memoryview, seal: Seal) -> None:
    """Refuse a payload that was changed.

    Args:
        header: of the frame, checked.
        payload: as long as it says.
        seal: of this direction.

    Raises:
        WireError: if it was.
    """
    if not hmac.compare_digest(seal.digest(b"payload", payload), header.payload_digest):
        raise WireError(NackCode.CORRUPT, "the digest of a tensor is wrong")


@dataclass(frozen=True)
class Block:
    """A tensor as bytes."""

    dtype: DType
    """Of its numbers, little-endian."""
    shape: tuple[int, ...]
    """Of the tensor, row-major."""
    data: bytes | bytearray | memoryview
    """Its numbers, without gaps."""

    def __post_init__(self) -> None:
        """Refuse bytes that do not fit the shape."""
        needed = math.prod(self.shape) * _ITEM_BYTES[self.dtype]
        if memoryview(self.data).nbytes != needed or not 0 < len(self.shape) <= _MAX_RANK:
            raise ValueError(
                f"{memoryview(self.data).nbytes} bytes for shape {self.shape} of {self.dtype}; "
                f"needed: {needed}, and 1 to {_MAX_RANK} dimensions"
            )

    @property
    def num_bytes(self) -> int:
        """Bytes of the numbers."""
        return memoryview(self.data).nbytes


def sealed(header: Header, payload: Block | None, seal: Seal) -> Header:
    """Add to a header what it says of its payload.

    Args:
        header: of a message.
        payload: its tensor.
        seal: of this direction.

    Returns:
        With dtype, shape, length and digest.
    """
    if payload is None:
        return replace(header, payload_digest=seal.digest(b"payload"))
    return replace(
        header,
        dtype=payload.dtype,
        shape=payload.shape,
        payload_bytes=payload.num_bytes,
        payload_digest=seal.digest(b"payload", payload.data),
    )


def _malformed(message: str) -> WireError:
    return WireError(NackCode.MALFORMED, message)
