"""One HTTP request as a route sees it: its body within limits, its reader, its time.

No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

from internvl35.serve.answering import Answerer, caller_of
from internvl35.serve.event_stream import EventStream, ReaderGoneError, while_read
from internvl35.serve.fields import BodyError
from internvl35.serve.logs import with_facts
from internvl35.serve.refusals import RefusedError, refuse

T = TypeVar("T")

LOGGER = logging.getLogger("internvl35.serve")


class Incoming:
    """One request.

    Args:
        request: of a route; its time runs from now.
    """

    def __init__(self, request: Request) -> None:
        """Look up who answers."""
        answerer = request.app.state.answerer
        assert isinstance(answerer, Answerer)
        self.answerer = answerer
        self.caller = caller_of(request.scope["state"])
        self._request = request
        self._until = asyncio.get_running_loop().time() + answerer.settings.request_timeout_s

    @property
    def number(self) -> str:
        """What is random about the request's name."""
        return self.caller.request_id.removeprefix("req_")

    async def read_json(self) -> Any:
        """Read the body.

        Returns:
            JSON values.

        Raises:
            BodyError: if it is not JSON.
            RefusedError: if it is too large or too slow.
            ReaderGoneError: if it ends early.
        """
        try:
            async with asyncio.timeout(self.answerer.settings.body_timeout_s):
                raw = await self._read()
        except TimeoutError:
            raise RefusedError(408, "the body did not arrive in time; send it again") from None
        except ClientDisconnect:
            raise ReaderGoneError from None
        try:
            return json.loads(raw, parse_constant=_refuse_constant)
        except RecursionError:
            raise BodyError("the body is nested too deeply") from None
        except ValueError:  # UnicodeDecodeError too
            raise BodyError("the body is not valid JSON in UTF-8") from None

    async def wait_for(self, work: Awaitable[T]) -> T:
        """Do work for as long as the client waits and there is time.

        Args:
            work: is cancelled otherwise.

        Returns:
            What it does.

        Raises:
            ReaderGoneError: if the client went.
            TimeoutError: if the time is up.
        """
        try:
            return await while_read(self._request.receive, work, self._until)
        except ReaderGoneError:
            self.answerer.metrics.note_gone()
            raise

    def stream(
        self, events: AsyncIterator[Mapping[str, Any] | str], held: AsyncExitStack
    ) -> EventStream:
        """Answer by events.

        Args:
            events: see :class:`EventStream`.
            held: see :class:`EventStream`.

        Returns:
            The response.
        """

        def tell(error: BaseException) -> Mapping[str, Any]:
            if isinstance(error, ReaderGoneError):
                self.answerer.metrics.note_gone()
                return {}
            told = refuse(error, self.caller.request_id)
            if told.is_ours:
                facts = with_facts(request=self.caller.request_id)
                LOGGER.error("fault", exc_info=error, extra=facts)
            return told.body

        return EventStream(events, tell, held, self._until)

    async def _read(self) -> bytes:
        most = self.answerer.settings.max_body_mib * 2**20
        too_large = RefusedError(
            413, f"the body has more than {most} bytes, which is all that is read here",
            code="body_too_large",
        )  # fmt: skip
        length = self._request.headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > most:
            raise too_large
        parts, size = [], 0
        async for part in self._request.stream():
            size += len(part)
            if size > most:
                raise too_large
            parts.append(part)
        return b"".join(parts)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
