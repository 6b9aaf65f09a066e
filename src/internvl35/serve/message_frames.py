"""Messages as the parts of frames, and back.

A message's tensor comes later than the rest, when it is known that it is wanted. The messages stand
in :mod:`internvl35.serve.messages`, the bytes in :mod:`internvl35.serve.frames`. No counterpart in
the paper.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from internvl35.serve.frames import NO_REQUEST, Block, Header, NackCode, WireError
from internvl35.serve.messages import (
    Cancel,
    Credit,
    Encode,
    Encoded,
    Features,
    Finished,
    Freed,
    Generate,
    Goodbye,
    Message,
    Nack,
    Ping,
    Pong,
    Progress,
    PromptLogprobs,
    Tiles,
)
from internvl35.serve.records import read_fields, write_fields

_IN_HEADER = frozenset({"request_id", "attempt", "first_tile", "num_tiles", "values"})
"""Fields that do not travel as JSON."""
_KINDS: dict[int, type[Any]] = {
    kind.KIND: kind
    for kind in (
        Encode, Tiles, Features, Encoded, Generate, Progress, PromptLogprobs, Finished, Nack,
        Cancel, Credit, Freed, Ping, Pong, Goodbye,
    )
}  # fmt: skip


def write_message(message: Message) -> tuple[Header, bytes, Block | None]:
    """Turn a message into the parts of a frame.

    Args:
        message: any.

    Returns:
        Header (without what the payload and the connection add), fields, tensor.
    """
    meta = write_fields(message, _IN_HEADER)
    header = Header(
        message.KIND,
        getattr(message, "request_id", NO_REQUEST),
        getattr(message, "attempt", 0),
        getattr(message, "first_tile", 0),
        getattr(message, "num_tiles", 0),
        meta_bytes=len(meta),
    )
    return header, meta, getattr(message, "values", None)


def read_message(header: Header, meta: bytes | bytearray) -> Message:
    """Turn a header and its fields into a message whose tensor has not come yet.

    Args:
        header: checked.
        meta: its fields.

    Returns:
        The message; what should be its tensor is None.

    Raises:
        WireError: if they are none.
    """
    kind = _KINDS.get(header.kind)
    if kind is None:
        raise WireError(NackCode.MALFORMED, f"messages of kind {header.kind} are unknown")
    names = {field.name for field in fields(kind)}
    if ("values" in names) != (header.dtype != "none") and kind is not Ping:
        raise WireError(NackCode.MALFORMED, f"{kind.__name__} brings a tensor, or lacks its own")
    given: dict[str, Any] = {
        "request_id": header.request_id,
        "attempt": header.attempt,
        "first_tile": header.first_tile,
        "num_tiles": header.num_tiles,
        "values": None,
    }
    for name, nothing in (("request_id", NO_REQUEST), ("first_tile", 0), ("num_tiles", 0)):
        if name not in names and given[name] != nothing:
            raise WireError(NackCode.MALFORMED, f"{kind.__name__} has no {name}")
    message: Message = read_fields(
        kind, meta, {name: value for name, value in given.items() if name in names}
    )
    return message


def add_tensor(message: Message, header: Header, payload: memoryview | None) -> Message:
    """Complete a message.

    Args:
        message: as :func:`read_message` returns it.
        header: of its frame.
        payload: the bytes of its tensor; None if there is none.

    Returns:
        The message.
    """
    if payload is None:
        return message
    assert isinstance(message, Tiles | Features | Generate | Ping)
    return replace(message, values=Block(header.dtype, header.shape, payload))
