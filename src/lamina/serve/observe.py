"""What a server tells about its requests: an id on each, a line in the log, figures, and never a traceback."""

from __future__ import annotations

import logging
import time
import uuid

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lamina.serve.connection import ClientGoneError
from lamina.serve.errors import ApiError, error_response
from lamina.serve.metrics import Metrics

__all__ = ["Observer"]

_LOG = logging.getLogger("lamina.serve")


class Observer:
    """Gives every request an id, counts it, logs it, and answers what nothing else has."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Stand in front of ``app``."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, start, status = f"req_{uuid.uuid4().hex}", time.perf_counter(), 0

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except ClientGoneError:
            pass
        except Exception:
            _LOG.exception("%s failed", request_id)
            if status:
                raise
            await error_response(ApiError(500, f"internal error; the log has it under {request_id}"))(
                scope, receive, tell
            )
        finally:
            elapsed = time.perf_counter() - start
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.request(route, status or 499, elapsed)
            _LOG.info("%s %s %s %s %.0f ms", request_id, scope["method"], route, status or "left", 1000 * elapsed)
