"""The gateway's application: routes behind a guard, errors in one form.

Answering is left to :mod:`internvl35.serve.answering`, listening to
:mod:`internvl35.serve.listening`. No counterpart in the paper.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from internvl35.errors import InternVLError
from internvl35.serve import routes_chat, routes_info, routes_responses, routes_text
from internvl35.serve.answering import Answerer, caller_of
from internvl35.serve.chat_answer import write_error
from internvl35.serve.gateway_settings import check_keys
from internvl35.serve.guard import Guard
from internvl35.serve.logs import with_facts
from internvl35.serve.refusals import refuse

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

LOGGER = logging.getLogger("internvl35.serve")

_NO_SPANS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
"""FastAPI's own spans repeat what users wrote; releases that have none take no heed of this."""


def build_app(answerer: Answerer, keys: Collection[str] = ()) -> FastAPI:
    """Put the application together.

    Args:
        answerer: answers.
        keys: API keys of which one is needed; none to answer everybody.

    Returns:
        An ASGI application.

    Raises:
        ConfigError: if a key can be guessed.
    """
    check_keys(tuple(keys))
    app = FastAPI(title="internvl35", docs_url=None, redoc_url=None, telemetry=_NO_SPANS)
    app.state.answerer = answerer
    for routes in (routes_chat, routes_text, routes_responses, routes_info):
        app.include_router(routes.router)
    app.add_exception_handler(InternVLError, _refuse)
    app.add_exception_handler(TimeoutError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_middleware(Guard, keys=keys, metrics=answerer.metrics)
    return app


async def _refuse(request: Request, error: Exception) -> Response:
    name = caller_of(request.scope["state"]).request_id
    told = refuse(error, name)
    if told.status == 503:
        LOGGER.error("refused", exc_info=error, extra=with_facts(request=name))
    return JSONResponse(told.body, told.status, told.headers)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(write_error(str(error.detail)), error.status_code, error.headers)


async def _refuse_parameters(request: Request, error: Exception) -> Response:
    return JSONResponse(write_error("a parameter of the address has another form"), 400)
