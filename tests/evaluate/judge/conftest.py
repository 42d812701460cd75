"""A judge on loopback that speaks as OpenAI's endpoint does, and behaves as a test wants it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

Reply = str | int | bytes | None  # text of a completion, an HTTP status, a raw body, or silence


@dataclass
class FakeJudge:
    """``behave`` maps a request's body to what comes back; ``seen`` holds every body and ``keys`` its Authorization."""

    url: str = ""
    behave: Callable[[dict[str, Any]], Reply] = lambda body: "[[C]]"
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    fake = FakeJudge()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.seen.append(body)
            fake.keys.append(self.headers.get("Authorization"))
            said = fake.behave(body)
            if said is None:
                fake.release.wait(10)  # the asker gives up before that; the test's end lets us go
                return
            status, content = 200, b""
            if isinstance(said, str):
                content = json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}).encode()
            elif isinstance(said, bytes):
                content = said
            else:
                status, content = said, b'{"error": "as told"}'
            self.send_response(status)
            for name, value in fake.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}/v1"
    yield fake
    fake.release.set()
    server.shutdown()
    thread.join()
    server.server_close()
