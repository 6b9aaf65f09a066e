"""One request on a connection: what was sent, what may still come, and who has to wait.

A reader grants bytes and grants more when it has read; who has none left waits, so that a slow
reader holds up its own requests and no other's. Frames and tasks are left to
:mod:`internvl35.serve.link`. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable
from dataclasses import replace
from typing import Protocol

from internvl35.serve.frames import Block, Header, NackCode, WireError
from internvl35.serve.message_frames import write_message
from internvl35.serve.messages import (
    Cancel,
    Credit,
    Encode,
    Encoded,
    Finished,
    Generate,
    Load,
    Message,
    Nack,
)
from internvl35.serve.plans import Plan

_MAX_TEXT = 2000
"""Most characters of an error that are sent."""


class Post(Protocol):
    """Where a stream puts what is to be sent."""

    def post(self, header: Header, meta: bytes, payload: Block | None) -> Awaitable[None]:
        """Queue a frame at once; the result is there when it was sent."""
        ...

    def forget(self, stream: Stream) -> None:
        """Hear that a stream ended."""
        ...


class Host(Protocol):
    """What a connection asks the server that it belongs to."""

    @property
    def load(self) -> Load:
        """How busy it is."""
        ...

    def admit(self, header: Header, opening: Encode | Generate) -> None:
        """Let a request in before its tensor is read.

        Raises:
            WireError: if it is refused.
        """
        ...

    def begin(self, opening: Encode | Generate, stream: Stream) -> None:
        """Work on a request that was let in.

        Raises:
            WireError: if it is refused after all.
        """
        ...


class Stream:
    """One side of one request; meets ``Channel``.

    Args:
        opening: what is asked.
        plan: what may come.
        post: takes what is sent.
        own_window: bytes that may come unread.
        peer_window: bytes that the peer takes unread.
        is_opener: whether this side asks.
    """

    def __init__(
        self,
        opening: Encode | Generate,
        plan: Plan,
        post: Post,
        *,
        own_window: int,
        peer_window: int,
        is_opener: bool,
    ) -> None:
        """Begin with nothing sent and nothing read."""
        self.opening = opening
        self.plan = plan
        self.is_opener = is_opener
        self.lease_ends_at = 0.0
        self.task: asyncio.Task[None] | None = None  # of the server that works on it
        self._post = post
        self._own_window = own_window
        self._credit = peer_window
        self._num_unread = self._num_read = 0
        self._inbox: deque[tuple[Message, int]] = deque()
        self._news = asyncio.Event()
        self._has_credit = asyncio.Event()
        self._end: WireError | None = None

    @property
    def request_id(self) -> str:
        """Of the request."""
        return self.opening.request_id

    @property
    def key(self) -> tuple[str, int]:
        """Request and attempt: what its frames bear."""
        return self.opening.request_id, self.opening.attempt

    @property
    def is_ended(self) -> bool:
        """Whether nothing more can be sent."""
        return self._end is not None

    async def send(self, message: Message) -> None:
        """Send a message once the other side has room; see ``Channel``."""
        header, meta, payload = write_message(message)
        assert header.request_id == self.request_id
        while self._end is None and self._credit <= 0:
            self._has_credit.clear()
            await self._has_credit.wait()
        if self._end is not None:
            raise self._end
        self._credit -= _cost(header, payload)
        await self._post.post(replace(header, attempt=self.opening.attempt), meta, payload)
        if isinstance(message, Encoded | Finished):
            self.end(_over(self.request_id), is_answered=True)

    async def receive(self) -> Message:
        """Wait for the next message; see ``Channel``."""
        while not self._inbox:
            if self._end is not None:
                raise self._end
            self._news.clear()
            await self._news.wait()
        message, cost = self._inbox.popleft()
        self._num_unread -= cost
        self._num_read += cost
        if self._num_read >= self._own_window // 4 and self._end is None:
            self._send_soon(Credit(self.request_id, self._num_read))
            self._num_read = 0
        return message

    def refuse(self, error: WireError) -> None:
        """End the request for both sides; a second call is harmless.

        Args:
            error: why.
        """
        if self._end is not None:
            return
        message: Message = Cancel(self.request_id)
        if not self.is_opener:
            message = make_nack(self.request_id, error)
        self._send_soon(message)
        self.end(error)

    def close(self) -> None:
        """Say that nothing more is wanted; harmless if the request ended."""
        self.refuse(_over(self.request_id))
        self._inbox.clear()

    def end(self, error: WireError, *, is_answered: bool = False) -> None:
        """End this side; what was received before can still be read.

        Args:
            error: what readers and senders get.
            is_answered: whether the work is done; what still works on it is cancelled if not.
        """
        if self._end is not None:
            return
        self._end = error
        self._news.set()
        self._has_credit.set()
        self._post.forget(self)
        task = self.task
        if task is not None and not is_answered and task is not asyncio.current_task():
            task.cancel()

    def check_window(self) -> None:
        """Refuse a frame of a peer that sends without credit.

        Raises:
            WireError: if it does.
        """
        if self._num_unread >= self._own_window:
            raise WireError(
                NackCode.TOO_LARGE,
                f"{self._num_unread} bytes of a request are unread; granted: {self._own_window}",
            )

    def deliver(self, message: Message, header: Header) -> None:
        """Hand a message to the reader.

        Args:
            message: complete and planned.
            header: of its frame.
        """
        cost = header.meta_bytes + header.payload_bytes
        self._num_unread += cost
        self._inbox.append((message, cost))
        self._news.set()
        if isinstance(message, Encoded | Finished):
            self.end(_over(self.request_id), is_answered=True)

    def grant(self, num_bytes: int) -> None:
        """Let senders go on.

        Args:
            num_bytes: that the peer read.
        """
        self._credit += max(num_bytes, 0)
        if self._credit > 0:
            self._has_credit.set()

    def _send_soon(self, message: Message) -> None:
        header, meta, payload = write_message(message)
        self._post.post(replace(header, attempt=self.opening.attempt), meta, payload)


def make_nack(request_id: str, error: WireError) -> Nack:
    """Tell an error to a peer, in a text that can be written whatever it repeats.

    Args:
        request_id: of the request.
        error: why it is refused.

    Returns:
        The message.
    """
    text = str(error)[:_MAX_TEXT].encode(errors="replace").decode()
    return Nack(request_id, error.code, text, error.retry_after_s)


def _cost(header: Header, payload: Block | None) -> int:
    return header.meta_bytes + (0 if payload is None else payload.num_bytes)


def _over(request_id: str) -> WireError:
    return WireError(NackCode.UNKNOWN_REQUEST, f"the request {request_id} has ended")
