"""From a request that is understood to its HTTP response: whole as JSON, or a stream of events."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Protocol

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from lamina.serve.connection import EventStream, while_connected
from lamina.serve.gateway import Gateway
from lamina.serve.stacks import ServedStack

__all__ = ["ANSWERS", "Turn", "head_of", "respond"]

# What the OpenAPI document says of both completion routes.
ANSWERS: dict[str, Any] = {
    "response_model": dict[str, Any],
    "responses": {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
}


class Turn(Protocol):
    """A request on its way to its answer."""

    async def whole(self) -> dict[str, Any]:
        """Return the response's body."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the stream's events."""


async def respond(gateway: Gateway, request: Request, turn: Turn, *, stream: bool) -> Response:
    """Return the response; work on it ends when the client leaves or its time is over.

    Raises:
        ClientGoneError: if the client left.
        TimeoutError: if the time is over.
    """
    seconds = gateway.limits.timeout_s
    if stream:
        return EventStream(turn.events(), seconds=seconds, first=gateway.metrics.clock())
    return JSONResponse(await while_connected(request.receive, turn.whole(), seconds))


def head_of(prefix: str, model: str, stack: ServedStack) -> dict[str, Any]:
    """Return what every part of one answer begins with; the fingerprint is the stack's digest."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": f"lamina-{stack.digest[7:19]}",
    }
