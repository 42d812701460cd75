"""Answers over a connection that may close at any moment: work ends with it, and streams end with an event."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from lamina.serve.errors import as_api_error, error_response

__all__ = ["ClientGoneError", "EventStream", "while_connected"]

_LOG = logging.getLogger("lamina.serve")
_T = TypeVar("_T")


class ClientGoneError(Exception):
    """Nobody is there to read the answer."""


async def while_connected(receive: Receive, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """Return what ``work`` returns; it is cancelled at once when the client leaves or the time is over.

    Raises:
        ClientGoneError: if the client left.
        TimeoutError: if the time is over.
    """
    task, watch = asyncio.create_task(work), asyncio.create_task(_wait_for_end(receive))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events: each item as one JSON ``data:`` line, ``[DONE]`` at the end.

    An error before the first item is answered with its own status; a later one is an event, and the stream ends.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[dict[str, Any]],
        *,
        seconds: float,
        first: Callable[[], None],
        headers: Mapping[str, str],
    ) -> None:
        """Send ``events`` for at most ``seconds``; ``first`` is called when the first one is there."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]
        self._events = events
        self._seconds = seconds
        self._first = first
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream."""
        try:
            await while_connected(receive, self._send_all(send), self._seconds)
        except ClientGoneError:
            return
        except Exception as error:
            known = as_api_error(error)
            if known.status == 500:
                _LOG.exception("a stream failed")
            if self._begun:
                await _send_event(send, json.dumps(known.body()), more=False)
            else:
                await error_response(known)(scope, receive, send)

    async def _send_all(self, send: Send) -> None:
        async with aclosing(self._events) as events:  # type: ignore[type-var]
            async for event in events:
                if not self._begun:
                    self._begun = True
                    self._first()
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await _send_event(send, json.dumps(event, ensure_ascii=False, separators=(",", ":")), more=True)
        await _send_event(send, "[DONE]", more=False)


async def _send_event(send: Send, data: str, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": more})
