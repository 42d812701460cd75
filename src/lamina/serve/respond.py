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

__all__ = ["ANSWERS", "STACK_HEADER", "Turn", "fingerprint_of", "head_of", "respond"]

STACK_HEADER = "x-lamina-stack"

# What the OpenAPI document says of both completion routes.
ANSWERS: dict[str, Any] = {
    "response_model": dict[str, Any],
    "responses": {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
}


class Turn(Protocol):
    """A request on its way to its answer."""

    async def settle(self) -> ServedStack:
        """Return the stack that answers; called once, before anything else."""

    async def whole(self) -> dict[str, Any]:
        """Return the response's body."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the stream's events."""


async def respond(gateway: Gateway, request: Request, turn: Turn, *, stream: bool) -> Response:
    """Return the response; work on it ends when the client leaves or its time is over.

    Its header ``x-lamina-stack`` says which layers answer, known before their first token.

    Raises:
        ClientGoneError: if the client left.
        TimeoutError: if the time is over.
    """
    end, first = time.monotonic() + gateway.limits.timeout_s, gateway.metrics.clock()
    stack = await while_connected(request.receive, turn.settle(), gateway.limits.timeout_s)
    headers, seconds = {STACK_HEADER: stack.expression}, end - time.monotonic()
    if stream:
        return EventStream(turn.events(), seconds=seconds, first=first, headers=headers)
    return JSONResponse(await while_connected(request.receive, turn.whole(), seconds), headers=headers)


def head_of(prefix: str, model: str) -> dict[str, Any]:
    """Return what every part of one answer begins with."""
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}


def fingerprint_of(stack: ServedStack) -> dict[str, str]:
    """Return what follows: the digest of the stack that answers."""
    return {"system_fingerprint": f"lamina-{stack.digest[7:19]}"}
