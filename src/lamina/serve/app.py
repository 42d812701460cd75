"""The HTTP application: routes, guards and error handlers around one gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI, Response

from lamina import __version__
from lamina.serve.chat import chat_router
from lamina.serve.errors import ApiError, install_handlers
from lamina.serve.gateway import Gateway
from lamina.serve.metrics import CONTENT_TYPE_LATEST
from lamina.serve.models import models_router

__all__ = ["make_app"]


def make_app(gateway: Gateway, *, extra: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application that answers for ``gateway``, with further routes if any are given."""
    app = FastAPI(title="lamina", version=__version__, docs_url=None, redoc_url=None, telemetry={"tracing": False})
    install_handlers(app)
    for router in (models_router(gateway), chat_router(gateway), _state_router(gateway), *extra):
        app.include_router(router)
    return app


def _state_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """Return 200 while the engine answers, 503 while it does not."""
        if gateway.state != "ready":
            raise ApiError(503, f"the engine is {gateway.state}", code="engine_unavailable", retry=True)
        return {"status": "ok", "engine": gateway.engine.name, "context": gateway.engine.context}

    @router.get("/metrics")
    async def metrics() -> Response:
        """Return the server's figures for Prometheus."""
        return Response(gateway.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
