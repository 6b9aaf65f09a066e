"""What a gateway tells about itself: models, health, figures.

No counterpart in the paper.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from internvl35.serve.body_schemas import describe_get
from internvl35.serve.incoming import Incoming

router = APIRouter()


@router.get("/health", **describe_get(("status",), is_probe=True))
async def tell_health(request: Request) -> Response:
    """Say whether the engine lives; a process that does not should be started anew."""
    has_failed = Incoming(request).answerer.has_failed
    return JSONResponse({"status": "failed" if has_failed else "ok"}, 503 if has_failed else 200)


@router.get("/ready", **describe_get(("status",), is_probe=True))
async def tell_readiness(request: Request) -> Response:
    """Say whether requests are taken."""
    is_ready = Incoming(request).answerer.is_ready
    return JSONResponse({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)


@router.get("/metrics", **describe_get((), 401))
async def tell_figures(request: Request) -> Response:
    """Show all figures in Prometheus' format."""
    figures = Incoming(request).answerer.metrics.write()
    return Response(figures, media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/v1/models", **describe_get(("object", "data"), 401))
async def list_models(request: Request) -> Response:
    """List the names of the model."""
    incoming = Incoming(request)
    models = [_describe(incoming, name) for name in incoming.answerer.names]
    return JSONResponse({"object": "list", "data": models})


@router.get("/v1/models/{name:path}", **describe_get(("id", "object", "created"), 401, 404))
async def tell_model(request: Request, name: str) -> Response:
    """Describe one model."""
    incoming = Incoming(request)
    incoming.answerer.check_model(name)
    return JSONResponse(_describe(incoming, name))


def _describe(incoming: Incoming, name: str) -> dict[str, object]:
    answerer = incoming.answerer
    return {
        "id": name,
        "object": "model",
        "created": answerer.started,
        "owned_by": "internvl35",
        "max_model_len": answerer.chat.builder.settings.max_tokens,
    }
