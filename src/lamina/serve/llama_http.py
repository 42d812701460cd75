"""Requests to a llama.cpp process over its Unix socket: a connection each, read by h11.

A client for the whole web does more for each of thousands of small events than reading them costs, on processors that
llama.cpp's threads would fill (docs/design/llama.md).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import h11

__all__ = ["GONE", "Reply", "post"]

# What it looks like when the process ends, before or while it answers.
GONE = (OSError, h11.RemoteProtocolError)

_READ_BYTES = 64 * 1024


class Reply:
    """An answer whose body is still to be read."""

    def __init__(self, reader: asyncio.StreamReader, connection: h11.Connection) -> None:
        """Read the answer to what was sent on ``connection``."""
        self._reader = reader
        self._connection = connection
        self.status = 0

    async def begin(self) -> None:
        """Wait for the status.

        Raises:
            OSError, h11.RemoteProtocolError: if the process ends before.
        """
        while not isinstance(event := await self._next(), h11.Response):
            pass
        self.status = event.status_code

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the body's lines, each as soon as it is whole, without its end.

        Raises:
            OSError, h11.RemoteProtocolError: if the process ends before the body does.
        """
        rest = b""
        while not isinstance(event := await self._next(), h11.EndOfMessage):
            *whole, rest = (rest + bytes(event.data)).split(b"\n")
            for line in whole:
                yield line
        if rest:
            yield rest

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            OSError, h11.RemoteProtocolError: if the process ends before the body does.
        """
        return b"\n".join([line async for line in self.lines()])

    async def _next(self) -> Any:
        while (event := self._connection.next_event()) is h11.NEED_DATA:
            self._connection.receive_data(await self._reader.read(_READ_BYTES))
        return event


@asynccontextmanager
async def post(socket: Path, path: str, body: Any) -> AsyncIterator[Reply]:
    """Send ``body`` as JSON and hold the answer; leaving early closes the connection, which ends the work on it.

    Raises:
        OSError, h11.RemoteProtocolError: if the process is not there, or ends before it answers.
    """
    data = json.dumps(body).encode()
    headers = [("Host", "llama"), ("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
    connection = h11.Connection(h11.CLIENT)
    request = h11.Request(method="POST", target=path, headers=[*headers, ("Connection", "close")])
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        for event in (request, h11.Data(data=data), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        reply = Reply(reader, connection)
        await reply.begin()
        yield reply
    finally:
        writer.close()
