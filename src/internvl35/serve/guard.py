"""What every request passes first: its id, the API key, the log, and the last word on faults.

Routes are left to the files of their names. Plain ASGI, so that streams and disconnections reach
the routes as they are. No counterpart in the paper.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from secrets import token_bytes, token_hex

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from internvl35.serve.event_stream import ReaderGoneError
from internvl35.serve.logs import with_facts
from internvl35.serve.metrics import Metrics
from internvl35.serve.refusals import RefusedError, refuse
from internvl35.serve.tracing import request_stage

LOGGER = logging.getLogger("internvl35.serve")

OPEN_PATHS = ("/health", "/ready")
"""Paths that need no key: probes of schedulers cannot send one, and nothing is told there."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    request_id: str
    """By which answer and log call the request."""
    salt: str
    """The same for requests under the same key; only they share what is cached."""


class Guard:
    """Lets requests with a key through.

    Args:
        app: the routes.
        keys: of which one is needed; none for a server that answers everybody.
        metrics: counts answers.
    """

    def __init__(self, app: ASGIApp, keys: Collection[str], metrics: Metrics) -> None:
        """Keep digests of the keys alone."""
        self._app, self._metrics = app, metrics
        self._secret = token_bytes(16)
        self._digests = tuple(self._digest(key.encode()) for key in keys)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it to the routes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = f"req_{token_hex(12)}"
        if scope["path"] in OPEN_PATHS:  # probes would bury the others
            await self._answer(scope, receive, send, name)
            return
        with request_stage("request", Headers(scope=scope), request=name) as stage:
            status = await self._answer(scope, receive, send, name)
            stage.note(route=_route_of(scope), status=status)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, name: str) -> int:
        """Answer one request and note it; gives the status that was sent."""
        started, status = time.perf_counter(), 0

        async def send_named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = name
            await send(message)

        try:
            scope.setdefault("state", {})["caller"] = Caller(name, self._check(scope))
            await self._app(scope, receive, send_named)
        except ReaderGoneError:
            status = status or 499  # as proxies write it down; nobody is told
        except Exception as error:  # the process boundary
            told = refuse(error, name)
            if told.is_ours:
                LOGGER.exception("fault", extra=with_facts(request=name))
            if not status:
                answer = JSONResponse(told.body, told.status, told.headers)
                await answer(scope, receive, send_named)
        finally:
            self._note(scope, name, status, time.perf_counter() - started)
        return status

    def _check(self, scope: Scope) -> str:
        """Look for a key, and tell whose cache the request may use."""
        if not self._digests or scope["path"] in OPEN_PATHS:
            return ""
        given = Headers(scope=scope).get("authorization", "")
        scheme, _, key = given.partition(" ")
        found = self._digest(key.strip().encode())
        matches = [compare_digest(found, digest) for digest in self._digests]  # all, always
        if scheme.lower() != "bearer" or not any(matches):
            raise RefusedError(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                "authentication_error", code="invalid_api_key",
            )  # fmt: skip
        return found.hex()

    def _digest(self, key: bytes) -> bytes:
        return blake2b(key, key=self._secret, digest_size=16).digest()

    def _note(self, scope: Scope, name: str, status: int, seconds: float) -> None:
        path = _route_of(scope)
        self._metrics.note_answer(path, status, seconds)
        if scope["path"] in OPEN_PATHS:
            return
        facts = with_facts(
            request=name, method=scope["method"], route=path, status=status,
            seconds=round(seconds, 3),
        )  # fmt: skip
        LOGGER.info("answered", extra=facts)


def _route_of(scope: Scope) -> str:
    """The route as the app writes it: no path of a sender becomes a label."""
    return str(getattr(scope.get("route"), "path", "other"))
