"""Who may ask: Host and Origin headers, the API key, and how large a body is read.

A page from anywhere on the web can make a browser send requests to this machine. Two checks keep it out: its requests
carry its own ``Origin``; and where it has rebound its own name to this address, a ``Host`` that is not ours. Addresses
written as numbers are let through, because rebinding needs a name.

Source: DNS rebinding defence as in Jupyter's and Vite's ``allowed_hosts``.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lamina.serve.errors import ApiError, error_response

__all__ = ["Access", "Guard"]

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_BODY_SECONDS = 60.0
_DRAINED_TIMES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whom a server lets in.

    Attributes:
        hosts: names it may be called by, besides localhost and addresses in numbers.
        origins: origins of web pages that may ask, besides its own (CORS).
        api_key: what clients must send as ``Authorization: Bearer``, if anything.
        open_paths: what needs no key: ``/health``, and a page's own files (``/page/*`` for all below ``/page/``).
    """

    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    api_key: str | None = None
    open_paths: tuple[str, ...] = ("/health",)


class Guard:
    """Lets a request through to the application, whole, or answers it with the reason why not."""

    def __init__(self, app: ASGIApp, access: Access, body_bytes: int) -> None:
        """Stand in front of ``app``."""
        self._app = app
        self._access = access
        self._hosts = frozenset(map(str.lower, access.hosts))
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope)
            body = await self._read(scope, receive)
        except ApiError as error:
            await error_response(error)(scope, receive, send)
            return
        if body is not None:
            await self._app(scope, _replay(body, receive), send)

    def _check(self, scope: Scope) -> None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(403, "this server does not answer to that Host name; see --allow-host", code="host_refused")
        origin = headers.get("origin")
        if origin is not None and origin not in self._access.origins and not _is_at(origin, host):
            raise ApiError(403, "web pages of that Origin may not ask; see --allow-origin", code="origin_refused")
        if not self._is_open(path) and not self._has_key(headers.get("authorization", "")):
            raise ApiError(401, "an API key is needed: Authorization: Bearer KEY", code="invalid_api_key")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and path.startswith("/v1/") and kind != "application/json":
            raise ApiError(415, "the request body must be JSON: Content-Type: application/json")

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in _LOCAL_NAMES or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _is_open(self, path: str) -> bool:
        return any(
            path == known or (known.endswith("/*") and path.startswith(known[:-1])) for known in self._access.open_paths
        )

    def _has_key(self, sent: str) -> bool:
        if self._access.api_key is None:
            return True
        scheme, _, key = sent.partition(" ")
        # Digests are of one length, so that not even the key's length shows in the time it takes.
        ours, theirs = (hashlib.sha256(text.strip().encode()).digest() for text in (self._access.api_key, key))
        return hmac.compare_digest(ours, theirs) and scheme.lower() == "bearer"

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, None if the client left.

        What is too large is read to a point and thrown away: a client that is still sending would not see the answer.
        """
        pieces: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    size += len(message.get("body", b""))
                    if size <= self._body_bytes:
                        pieces.append(message.get("body", b""))
                    if not message.get("more_body") or size > _DRAINED_TIMES * self._body_bytes:
                        break
        except TimeoutError as error:
            raise ApiError(408, f"the request body did not arrive within {_BODY_SECONDS:g} seconds") from error
        if size > self._body_bytes:
            raise ApiError(413, f"the request body is larger than the {self._body_bytes:,} bytes this server takes")
        return b"".join(pieces)


def _is_at(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
