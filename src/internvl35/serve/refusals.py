"""Why a request is not answered: status, body and headers, the same for every route.

Messages of this package's own errors are meant for senders; of everything else a sender learns no
more than the request's id, under which the log tells the rest. No counterpart in the paper.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from internvl35.errors import (
    BusyError,
    ConfigError,
    InternVLError,
    MediaError,
    PromptError,
    ServerError,
)
from internvl35.serve.chat_answer import INTERNAL, INVALID, write_error
from internvl35.serve.fields import BodyError


class RefusedError(ServerError):
    """A request is turned away for another reason than what its fields say.

    Args:
        status: of the answer.
        message: what is wrong and what to do.
        kind: type of the error, as OpenAI's API has them.
        code: its code.
        param: path of the field that is wrong.
        retry_after_s: when to try again; None if that does not help.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = INVALID,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        """Keep what the answer says."""
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Refusal:
    """What a sender is told."""

    status: int
    """Of the answer."""
    body: dict[str, Any]
    """Of the answer."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of the answer."""

    @property
    def is_ours(self) -> bool:
        """Whether the fault is this package's, which belongs into the log."""
        return self.status == 500


def refuse(error: BaseException, request_id: str) -> Refusal:
    """Say why a request is not answered.

    Args:
        error: what was raised while it was.
        request_id: by which the log calls the request.

    Returns:
        What its sender is told.
    """
    if isinstance(error, RefusedError):
        body = write_error(str(error), error.kind, error.param)
        body["error"]["code"] = error.code
        wait = error.retry_after_s
        return Refusal(error.status, body, {} if wait is None else {"Retry-After": str(wait)})
    if isinstance(error, BodyError):
        return Refusal(400, write_error(str(error), param=error.param))
    if isinstance(error, ConfigError | MediaError | PromptError):
        return Refusal(400, write_error(str(error)))
    if isinstance(error, BusyError):
        later = str(max(1, round(error.retry_after_s)))
        return Refusal(503, write_error(str(error), "server_error"), {"Retry-After": later})
    if isinstance(error, TimeoutError):
        return Refusal(
            504, write_error(f"the answer took too long; request {request_id}", "timeout_error")
        )
    if isinstance(error, asyncio.CancelledError):
        return Refusal(503, write_error("the server stopped before the end", "server_error"))
    if isinstance(error, InternVLError):
        body = write_error(f"the server cannot answer now; request {request_id}", "server_error")
        return Refusal(503, body, {"Retry-After": "5"})
    return Refusal(500, write_error(f"a fault of the server; request {request_id}", INTERNAL))
