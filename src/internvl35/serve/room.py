"""Lets requests in while there is room, turns the others away, and says when to try again.

Nothing waits without a bound: a request has a place or is refused at once. One that has a place may
wait until the tiles of others are answered. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from internvl35.serve.gateway_settings import GatewaySettings
from internvl35.serve.refusals import RefusedError


class Room:
    """Places for requests and room for their tiles; of one event loop alone.

    Args:
        settings: how much there is.
    """

    def __init__(self, settings: GatewaySettings) -> None:
        """Begin empty."""
        self.settings = settings
        self.num_requests = 0
        self.num_tiles = 0
        self.num_opening = 0
        self.is_draining = False
        self._line: deque[object] = deque()
        self._change = asyncio.Event()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for one request.

        Raises:
            RefusedError: if all are taken, or the server is about to stop.
        """
        wait = self.settings.retry_after_s
        if self.is_draining:
            raise RefusedError(
                503, "the server is about to stop; try again", "server_error",
                code="server_stopping", retry_after_s=wait,
            )  # fmt: skip
        if self.num_requests >= self.settings.max_requests:
            raise RefusedError(
                429, f"{self.num_requests} requests are in work, as many as may be; try again",
                "rate_limit_error", code="too_many_requests", retry_after_s=wait,
            )  # fmt: skip
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    async def begin_opening(self) -> None:
        """Wait until the pictures of a request may be opened; who came first goes first."""
        ticket = object()
        self._line.append(ticket)
        try:
            while self._line[0] is not ticket or not self._may_open():
                self._change.clear()
                await self._change.wait()
            self.num_opening += 1
        finally:
            self._line.remove(ticket)
            self._change.set()

    def end_opening(self) -> None:
        """Note that the pictures of a request are open, or never will be."""
        self.num_opening -= 1
        self._change.set()

    @contextmanager
    def hold(self, num_tiles: int) -> Iterator[None]:
        """Hold room for the tiles of a request while it is answered.

        Args:
            num_tiles: of its pictures.
        """
        self.num_tiles += num_tiles
        try:
            yield
        finally:
            self.num_tiles -= num_tiles
            self._change.set()

    @property
    def num_waiting(self) -> int:
        """Requests whose pictures wait to be opened."""
        return len(self._line)

    def _may_open(self) -> bool:
        return (
            self.num_opening < self.settings.max_opening
            and self.num_tiles < self.settings.max_tiles_in_work
        )
