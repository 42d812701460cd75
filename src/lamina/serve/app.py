"""The HTTP application: routes, guards and error handlers around one gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse

from lamina import __version__
from lamina.serve.chat import chat_router
from lamina.serve.completions import completion_router
from lamina.serve.embeddings import embedding_router
from lamina.serve.errors import ApiError, install_handlers
from lamina.serve.gateway import Gateway
from lamina.serve.guard import Access, Guard
from lamina.serve.metrics import CONTENT_TYPE_LATEST
from lamina.serve.models import models_router
from lamina.serve.observe import Observer
from lamina.serve.respond import STACK_HEADER

__all__ = ["make_app"]


class _Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class _ErrorBody(BaseModel):
    """Every error, in OpenAI's shape."""

    error: _Error


def make_app(gateway: Gateway, access: Access, *, extra: Sequence[APIRouter] = ()) -> FastAPI:
    """Return the application that answers for ``gateway`` to whom ``access`` lets in, with further routes if given."""
    app = FastAPI(title="lamina", version=__version__, docs_url=None, redoc_url=None, telemetry={"tracing": False})
    install_handlers(app)
    makers = (models_router, chat_router, completion_router, embedding_router, _state_router)
    for router in (*(make(gateway) for make in makers), *extra):
        app.include_router(router, responses={"4XX": {"model": _ErrorBody}, "5XX": {"model": _ErrorBody}})
    app.add_middleware(Guard, access, gateway.limits.body_bytes)
    if access.origins:  # in front of the guard: a page that may ask may also read why it was refused
        app.add_middleware(
            CORSMiddleware,
            allow_origins=sorted(access.origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["retry-after", "x-request-id", STACK_HEADER],
        )
    app.add_middleware(Observer, gateway.metrics)
    return app


def _state_router(gateway: Gateway) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/health")
    async def health() -> dict[str, Any]:
        """Return 200 while the engine answers, 503 while it does not."""
        if gateway.state != "ready":
            raise ApiError(503, f"the engine is {gateway.state}", code="engine_unavailable", retry=True)
        return {"status": "ok", "engine": gateway.engine.name, "context": gateway.engine.context}

    @router.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Return the server's figures for Prometheus."""
        return PlainTextResponse(gateway.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
