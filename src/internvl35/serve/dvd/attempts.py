"""The same request to one server after the other, until one answers.

Which server comes next is left to :mod:`internvl35.serve.dvd.peers`. No counterpart in the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from types import TracebackType

from internvl35.errors import InternVLError, PromptError, ServerError
from internvl35.serve.dvd.peers import Peer, Pool
from internvl35.serve.frames import NackCode, WireError
from internvl35.serve.link import Link

_LOGGER = logging.getLogger("internvl35.serve")

_NOT_BEGUN = {NackCode.BUSY, NackCode.DRAINING}
"""Refusals that cost nothing and do not count as attempts."""
_WRONG = {NackCode.WRONG_REQUEST, NackCode.TOO_LARGE}
"""Mistakes of who asks."""
_LAST = 65_535
"""The highest number of an attempt that the wire has."""


class Attempt:
    """One try; as a context it gives a link, and swallows what may go better elsewhere.

    Args:
        pool: of the servers.
        num_units: tiles, or 1 for a language server.
        key: see :meth:`Pool.borrow`.
        name: of the request, for the log.
        before: the try before; None for the first.
    """

    def __init__(
        self, pool: Pool, num_units: int, key: bytes, name: str, before: Attempt | None
    ) -> None:
        """Ask nobody yet."""
        self.number: int = 0 if before is None else before.number + 1
        self.is_last = False
        """Set it when nothing may be tried again, since something was told."""
        self._num_failed: int = 0 if before is None else before._num_failed
        self._avoid = None if before is None else before._peer
        self._pool, self._num_units, self._key, self._name = pool, num_units, key, name
        self._peer: Peer | None = None
        self._link: Link | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Link:
        """Wait for a server."""
        borrowed = self._pool.borrow(self._num_units, self._key, self._avoid)
        try:
            self._peer = await self._stack.enter_async_context(borrowed)
        except WireError as error:
            raise _explain(error) from error
        self._link = self._peer.link
        assert self._link is not None
        return self._link

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> bool:
        """Give the server back, and say whether there is another try."""
        await self._stack.aclose()
        if not isinstance(error, WireError):
            return False
        assert self._peer is not None
        assert self._link is not None
        if self._link.error is not None:  # whatever ended it, the request is not to blame
            error = WireError(NackCode.LOST, str(error))
        self._pool.note_failure(self._peer, error)
        self._num_failed += error.code not in _NOT_BEGUN
        place = f"{self._pool.role} server {self._peer.address}"
        _LOGGER.warning("%s: attempt %d at %s: %s", self._name, self.number, place, error)
        is_over = self._num_failed >= self._pool.settings.max_attempts or self.number == _LAST
        if self.is_last or is_over or not error.code.is_retryable:
            raise _explain(error, self._link) from error
        return True


def attempts(pool: Pool, num_units: int, key: bytes, name: str) -> Iterator[Attempt]:
    """Try a request until it is answered; whoever has the answer leaves the loop.

    Args:
        pool: of the servers.
        num_units: tiles, or 1 for a language server.
        key: see :meth:`Pool.borrow`.
        name: of the request, for the log.

    Yields:
        Attempts, each to be entered once; what cannot be tried again is raised when it is left, as
        :class:`PromptError` or :class:`ServerError`.
    """
    attempt = None
    while True:
        attempt = Attempt(pool, num_units, key, name, attempt)
        yield attempt


def _explain(error: WireError, link: Link | None = None) -> InternVLError:
    if error.code not in _WRONG or link is None:
        return ServerError(str(error))
    return PromptError(str(error).removeprefix(f"{link.peer.name}: "))  # its sender reads it
