"""Who is there: both sides of a connection prove that they hold the secret, then say what they run.

Four frames. Each side sends a number that nobody used before; the one who connects proves first, so
that a stranger learns nothing about a server; both proofs cover all that was said. The keys of
both directions come from the same numbers, so that frames of one connection are worth nothing on
another. Under TLS the certificates prove it, and the secret is one more. No counterpart in the
paper.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass, field, replace
from typing import TypeVar

from internvl35.errors import ConfigError
from internvl35.serve.frames import (
    HEADER_BYTES,
    ChecksumSeal,
    FrameLimits,
    Header,
    MacSeal,
    NackCode,
    Seal,
    WireError,
    check_head,
    pack_head,
    sealed,
    unpack_header,
)
from internvl35.serve.messages import Nack, Profile
from internvl35.serve.records import read_fields, write_fields
from internvl35.serve.shared_ring import SharedRing, forget_name, make_ring, open_ring
from internvl35.serve.transports import Transport
from internvl35.serve.ucx_transport import reach, tell_address

MIN_SECRET_BYTES = 32
_LIMITS = FrameLimits(meta_bytes=8192, payload_bytes=0)
_NOBODY = bytes(16)
"""In place of a fingerprint, which strangers are not told."""

Record = TypeVar("Record")


@dataclass(frozen=True)
class Identity:
    """What one side brings to a handshake."""

    profile: Profile
    """What it says about itself."""
    fingerprint: bytes
    """16 bytes for checkpoint and preprocessing, as :func:`make_fingerprint` makes them."""
    secret: bytes | None = field(default=None, repr=False)
    """What all servers of one installation know; None under TLS, or on one host."""
    shared_bytes: int = 0
    """Bytes of memory to share, for each direction; 0 for none."""
    has_ucx: bool = False
    """Whether large tensors may travel over UCX; needs a secret."""

    def __post_init__(self) -> None:
        """Refuse secrets that can be guessed, and UCX where anyone could change a tensor."""
        if self.secret is not None and len(self.secret) < MIN_SECRET_BYTES:
            raise ConfigError(
                f"the secret has {len(self.secret)} bytes; needed: {MIN_SECRET_BYTES} or more; "
                "make one with: openssl rand -hex 32"
            )
        if self.has_ucx and self.secret is None:
            raise ConfigError(
                "tensors over UCX go past TLS; needed: a secret, which seals them; make one with: "
                "openssl rand -hex 32"
            )
        assert len(self.fingerprint) == 16


@dataclass(frozen=True)
class Acquaintance:
    """What a handshake leads to."""

    profile: Profile
    """The peer's."""
    outgoing: Seal
    """Of what we send."""
    incoming: Seal
    """Of what we read."""
    ring: SharedRing | None
    """Memory that both sides share."""
    fast: Transport | None = None
    """What large tensors travel over; None for the connection itself."""


@dataclass(frozen=True)
class _Nonce:
    """First frame of each side."""

    nonce: str


@dataclass(frozen=True)
class _Offer:
    """Ways beside the connection; a server answers with those that it takes."""

    ring_name: str | None
    ring_bytes: int
    ucx_address: str | None


@dataclass(frozen=True)
class _Introduction:
    """Second frame of each side; the proof covers the other fields and all frames before."""

    profile: Profile
    fingerprint: str
    offer: _Offer
    proof: str


def make_fingerprint(*parts: bytes) -> bytes:
    """Sum up what two servers must have in common: config, weights, preprocessing.

    Args:
        parts: in an order that all servers keep.

    Returns:
        16 bytes; other parts, or the same cut otherwise, give others.
    """
    state = hashlib.blake2b(digest_size=16, person=b"fingerprint")
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


async def greet(transport: Transport, own: Identity) -> Acquaintance:
    """Introduce ourselves to a server.

    Args:
        transport: a new connection.
        own: what we bring.

    Returns:
        What was agreed.

    Raises:
        WireError: if the server refuses us, or we it.
        OSError: if the connection breaks.
    """
    talk = _Talk(transport, own)
    await talk.send(1, _Nonce(secrets.token_hex(16)))
    await talk.receive(2, _Nonce)
    ucx_address = tell_address() if own.has_ucx else None
    made = make_ring(own.shared_bytes) if own.shared_bytes else None
    name, ring = made or (None, None)
    try:
        await talk.prove(3, _Offer(name, own.shared_bytes if name else 0, ucx_address))
        answer = await talk.hear(4)
        fast = await talk.reach(answer.offer, b"client", b"server")
    except BaseException:
        if ring is not None:
            ring.close()
        raise
    finally:
        if name is not None:
            forget_name(name)
    if ring is not None and answer.offer.ring_name != name:  # the server could not open it
        ring.close()
        ring = None
    outgoing, incoming = talk.make_seals(b"client", b"server")
    return Acquaintance(answer.profile, outgoing, incoming, ring, fast)


async def welcome(transport: Transport, own: Identity) -> Acquaintance:
    """Let somebody in who connected to us.

    Args:
        transport: a new connection.
        own: what we bring.

    Returns:
        What was agreed.

    Raises:
        WireError: if we refuse the other; it was told so.
        OSError: if the connection breaks.
    """
    talk = _Talk(transport, own)
    ring = None
    try:
        await talk.receive(1, _Nonce)
        await talk.send(2, _Nonce(secrets.token_hex(16)))
        asked = await talk.hear(3)
        offer = asked.offer
        if offer.ring_name is not None and own.shared_bytes == offer.ring_bytes:
            ring = open_ring(offer.ring_name, offer.ring_bytes)
        ring_name = None if ring is None else offer.ring_name
        has_ucx = own.has_ucx and offer.ucx_address is not None
        await talk.prove(4, _Offer(ring_name, 0, tell_address() if has_ucx else None))
        fast = await talk.reach(offer, b"server", b"client")
    except WireError as error:
        await talk.send(Nack.KIND, Nack(talk.no_request, error.code, str(error), None))
        raise
    except BaseException:
        if ring is not None:
            ring.close()
        raise
    outgoing, incoming = talk.make_seals(b"server", b"client")
    return Acquaintance(asked.profile, outgoing, incoming, ring, fast)


class _Talk:
    """The frames of one handshake."""

    no_request = Header(1).request_id

    def __init__(self, transport: Transport, own: Identity) -> None:
        self._transport, self._own = transport, own
        self._said = hashlib.sha256()
        self._seal = ChecksumSeal()
        self._num_sent = self._num_read = 0

    async def send(self, kind: int, record: object) -> None:
        meta = write_fields(record)
        header = Header(kind, meta_bytes=len(meta), sequence=self._num_sent)
        frame = pack_head(sealed(header, None, self._seal), meta, self._seal, _NOBODY)
        self._num_sent += 1
        self._said.update(frame)
        await self._transport.write([frame])

    async def receive(self, kind: int, record: type[Record]) -> Record:
        raw = bytearray(HEADER_BYTES)
        await self._transport.read_into(memoryview(raw))
        header = unpack_header(raw, _LIMITS)
        meta = bytearray(header.meta_bytes)
        await self._transport.read_into(memoryview(meta))
        check_head(raw, meta, self._seal, fingerprint=_NOBODY, sequence=self._num_read)
        if header.kind == Nack.KIND:
            nack = read_fields(Nack, meta)
            raise WireError(nack.code, f"the server refuses us: {nack.text}")
        if header.kind != kind:
            raise WireError(NackCode.MALFORMED, f"frame {kind} of a handshake has another kind")
        self._num_read += 1
        self._said.update(raw)
        self._said.update(meta)
        return read_fields(record, meta)

    async def prove(self, kind: int, offer: _Offer) -> None:
        record = _Introduction(self._own.profile, self._own.fingerprint.hex(), offer, "")
        proof = self._sign(kind, self._said.digest(), record)
        await self.send(kind, replace(record, proof=proof))

    async def hear(self, kind: int) -> _Introduction:
        """Read the other's introduction and check all of it."""
        said = self._said.digest()
        record = await self.receive(kind, _Introduction)
        proof = self._sign(kind, said, replace(record, proof=""))
        if not hmac.compare_digest(proof.encode(), record.proof.encode()):
            raise WireError(
                NackCode.UNAUTHENTICATED,
                "the peer does not hold our secret; start all servers with the same",
            )
        if record.fingerprint != self._own.fingerprint.hex():
            raise WireError(
                NackCode.INCOMPATIBLE,
                "the peer runs another checkpoint or other preprocessing; start all servers with "
                "the same",
            )
        if (record.profile.role == "gateway") == (self._own.profile.role == "gateway"):
            raise WireError(
                NackCode.INCOMPATIBLE,
                f"a {self._own.profile.role} and a {record.profile.role} have nothing to say to "
                "each other; connect a gateway to a server",
            )
        return record

    async def reach(self, offer: _Offer, own: bytes, other: bytes) -> Transport | None:
        """Take the way over UCX if both sides offer it, under tags that nobody can guess."""
        secret, said = self._own.secret, self._said.digest()
        if not self._own.has_ucx or offer.ucx_address is None:
            return None
        assert secret is not None
        tags = (hmac.digest(secret, b"tag of " + side + said, "sha256") for side in (own, other))
        outgoing, incoming = (int.from_bytes(tag[:8], "little") for tag in tags)
        return await reach(offer.ucx_address, outgoing, incoming)

    def make_seals(self, own: bytes, other: bytes) -> tuple[Seal, Seal]:
        secret = self._own.secret
        if secret is None:
            return ChecksumSeal(), ChecksumSeal()
        said = self._said.digest()
        keys = (hmac.digest(secret, b"key of " + side + said, "sha256") for side in (own, other))
        outgoing, incoming = map(MacSeal, keys)
        return outgoing, incoming

    def _sign(self, kind: int, said: bytes, record: _Introduction) -> str:
        if self._own.secret is None:
            return ""
        body = b"proof %d" % kind + said + write_fields(record)
        return hmac.digest(self._own.secret, body, "sha256").hex()
