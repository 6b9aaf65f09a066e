from __future__ import annotations

import contextlib
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl35.errors import ConfigError
from internvl35.serve.frames import (
    HEADER_BYTES,
    Block,
    ChecksumSeal,
    FrameLimits,
    Header,
    MacSeal,
    NackCode,
    Seal,
    WireError,
    check_head,
    check_payload,
    pack_head,
    sealed,
    unpack_header,
)

LIMITS = FrameLimits(meta_bytes=2048, payload_bytes=4096)
PRINT = bytes(range(16))
MAC = MacSeal(b"k" * 32)
ITEM_BYTES = {"u8": 1, "i32": 4, "f16": 2, "bf16": 2, "f32": 4}
BODIES = {
    "kind": 16,
    "attempt": 3,
    "first_tile": 5,
    "num_tiles": 2,
    "sequence": 9,
    "request_id": "0123456789abcdef0123456789abcdef",
}


def write(block: Block | None, meta: bytes = b"{}", seal: Seal = MAC, **header: object) -> bytes:
    own = Header(**{**BODIES, **header}, meta_bytes=len(meta))  # type: ignore[arg-type]
    own = sealed(own, block, seal)
    return pack_head(own, meta, seal, PRINT) + bytes(b"" if block is None else block.data)


def read(
    raw: bytes, seal: Seal = MAC, *, fingerprint: bytes = PRINT, sequence: int = 9
) -> tuple[Header, bytes, bytes]:
    """Read one frame the way a connection does; too few bytes are what a socket would miss."""
    if len(raw) < HEADER_BYTES:
        raise EOFError
    header = unpack_header(raw[:HEADER_BYTES], LIMITS)
    end = HEADER_BYTES + header.meta_bytes
    if len(raw) < end:
        raise EOFError
    meta = raw[HEADER_BYTES:end]
    check_head(raw[:HEADER_BYTES], meta, seal, fingerprint=fingerprint, sequence=sequence)
    payload = raw[end : end + header.payload_bytes]
    if len(payload) < header.payload_bytes:
        raise EOFError
    check_payload(header, payload, seal)
    return header, meta, payload


@st.composite
def blocks(draw: st.DrawFn) -> Block:
    dtype = draw(st.sampled_from(sorted(ITEM_BYTES)))
    shape = tuple(draw(st.lists(st.integers(0, 5), min_size=1, max_size=4)))
    size = math.prod(shape) * ITEM_BYTES[dtype]
    return Block(dtype, shape, draw(st.binary(min_size=size, max_size=size)))  # type: ignore[arg-type]


@given(
    blocks() | st.none(), st.binary(max_size=99), st.integers(0, 2**32 - 1), st.integers(0, 65535)
)
def test_what_is_written_is_read(
    block: Block | None, meta: bytes, first: int, attempt: int
) -> None:
    raw = write(block, meta, first_tile=first, attempt=attempt, sequence=2**63)
    header, found, payload = read(raw, sequence=2**63)
    assert (header.first_tile, header.attempt, found) == (first, attempt, meta)
    assert header.request_id == BODIES["request_id"]
    assert (header.kind, header.num_tiles, header.shared_at) == (16, 2, None)
    if block is None:
        assert (header.dtype, header.shape, payload) == ("none", (), b"")
    else:
        assert (header.dtype, header.shape, payload) == (block.dtype, block.shape, block.data)


def test_the_bytes_of_a_frame_are_these() -> None:
    """Other versions of this package have to read them."""
    raw = write(Block("bf16", (1, 2), b"abcd"), b'{"a":1}')
    assert HEADER_BYTES == 128
    assert raw[:16] == b"IV35\x02\x10\x04\x02" + (9).to_bytes(8, "little")
    assert raw[16:32].hex() == BODIES["request_id"]
    assert raw[32:48] == PRINT
    assert [int.from_bytes(raw[at : at + 4], "little") for at in (48, 52, 56)] == [5, 2, 7]
    assert raw[60:64] == b"\0\0\3\0"
    assert [int.from_bytes(raw[at : at + 8], "little") for at in (64, 72)] == [4, 0]
    assert [int.from_bytes(raw[at : at + 4], "little") for at in (80, 84, 88, 92)] == [1, 2, 0, 0]
    assert raw[96:112] == MAC.digest(b"payload", b"abcd")
    assert raw[112:128] == MAC.digest(b"head", raw[:112], b'{"a":1}')
    assert raw[128:] == b'{"a":1}abcd'


@given(st.data(), blocks() | st.none())
def test_a_changed_bit_is_always_noticed(data: st.DataObject, block: Block | None) -> None:
    raw = bytearray(write(block, b'{"x":2}'))
    at = data.draw(st.integers(0, len(raw) * 8 - 1))
    raw[at // 8] ^= 1 << at % 8
    with pytest.raises((WireError, EOFError)):
        read(bytes(raw))


@given(st.data(), blocks() | st.none())
def test_a_frame_cut_short_is_never_a_frame(data: st.DataObject, block: Block | None) -> None:
    raw = write(block, b'{"x":2}')
    with pytest.raises(EOFError):
        read(raw[: data.draw(st.integers(0, len(raw) - 1))])


@settings(max_examples=300)
@given(st.binary(min_size=HEADER_BYTES, max_size=400), st.booleans())
def test_noise_is_refused_with_a_code_and_no_other_error(noise: bytes, has_magic: bool) -> None:
    raw = b"IV35\x01" + noise[5:] if has_magic else noise
    with pytest.raises((WireError, EOFError)):
        read(raw, ChecksumSeal())


@given(
    st.binary(min_size=16, max_size=16), st.integers(0, 255), st.integers(0, 255),
    st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**32 - 1), min_size=4, max_size=4),
)  # fmt: skip
def test_no_header_names_more_bytes_than_the_limits(
    noise: bytes, dtype: int, rank: int, size: int, shape: list[int]
) -> None:
    """What a reader would allocate is bounded before any digest can be checked."""
    raw = bytearray(write(Block("u8", (1,), b"a")))
    raw[6], raw[7] = dtype, rank
    raw[56:60] = noise[:4]
    raw[64:72] = size.to_bytes(8, "little")
    raw[80:96] = b"".join(side.to_bytes(4, "little") for side in shape)
    try:
        header = unpack_header(bytes(raw[:HEADER_BYTES]), LIMITS)
    except WireError:
        return
    assert header.meta_bytes <= LIMITS.meta_bytes
    assert header.payload_bytes <= LIMITS.payload_bytes


@pytest.mark.parametrize(
    ("at", "value", "code"),
    [
        (0, b"X", NackCode.MALFORMED),
        (4, b"\1", NackCode.VERSION),
        (5, b"\0", NackCode.MALFORMED),
        (6, b"\x06", NackCode.MALFORMED),
        (7, b"\x05", NackCode.MALFORMED),
        (8, b"\x08", NackCode.CORRUPT),
        (58, b"\xff", NackCode.TOO_LARGE),
        (60, b"\2", NackCode.MALFORMED),
        (68, b"\1", NackCode.TOO_LARGE),
        (72, b"\1", NackCode.MALFORMED),
        (84, b"\3", NackCode.MALFORMED),
        (92, b"\1", NackCode.MALFORMED),
    ],
)
def test_each_wrong_field_has_its_code(at: int, value: bytes, code: NackCode) -> None:
    raw = bytearray(write(Block("u8", (2, 2), b"abcd")))
    raw[at : at + 1] = value
    with pytest.raises(WireError) as caught:
        read(bytes(raw))
    assert caught.value.code is code


def test_a_frame_of_another_place_checkpoint_or_key_is_refused() -> None:
    raw = write(None)
    for found, code in (
        ({"sequence": 10}, NackCode.OUT_OF_ORDER),
        ({"fingerprint": bytes(16)}, NackCode.INCOMPATIBLE),
        ({"seal": MacSeal(b"K" * 32)}, NackCode.CORRUPT),
        ({"seal": ChecksumSeal()}, NackCode.CORRUPT),
    ):
        with pytest.raises(WireError) as caught:
            read(raw, **found)  # type: ignore[arg-type]
        assert caught.value.code is code


def test_a_digest_of_one_purpose_is_none_of_another() -> None:
    for seal in (MAC, ChecksumSeal()):
        assert seal.digest(b"head", b"x") != seal.digest(b"payload", b"x")
        assert seal.digest(b"head", b"x", b"y") == seal.digest(b"head", b"xy")
        assert len(seal.digest(b"head")) == 16


def test_a_block_has_the_bytes_of_its_shape() -> None:
    for dtype, shape, size in (("u8", (2,), 3), ("bf16", (2, 2), 4), ("u8", (), 1)):
        with pytest.raises(ValueError, match="bytes for shape"):
            Block(dtype, shape, bytes(size))  # type: ignore[arg-type]


def test_limits_that_no_header_can_state_are_refused() -> None:
    for limits in ({"meta_bytes": 10}, {"payload_bytes": -1}, {"payload_bytes": 2**32}):
        with pytest.raises(ConfigError, match=next(iter(limits))):
            FrameLimits(**limits)


def test_only_what_may_end_otherwise_elsewhere_is_tried_again() -> None:
    final = {code for code in NackCode if not code.is_retryable}
    assert final == {
        NackCode.WRONG_REQUEST, NackCode.TOO_LARGE, NackCode.DUPLICATE, NackCode.INCOMPATIBLE
    }  # fmt: skip


@pytest.mark.slow
def test_a_million_damaged_frames_are_refused_and_nothing_else_happens() -> None:
    chance = random.Random(35)
    whole = [write(Block("bf16", (2, 4), bytes(16)), b'{"a":[1,2]}'), write(None, b"{}")]
    for _ in range(1_000_000):
        raw = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 4)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        if chance.random() < 0.2:
            del raw[chance.randrange(len(raw)) :]
        if bytes(raw) in whole:
            continue
        with contextlib.suppress(EOFError, WireError):
            read(bytes(raw))
            pytest.fail(f"a damaged frame was taken: {raw.hex()}")
