"""Replies that have been paid for, one JSON line each, on disk before the next question is asked."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lamina.errors import StackError
from lamina.refs import Digest

__all__ = ["Journal", "journal_key", "open_journal"]


def journal_key(url: str, body: dict[str, Any]) -> str:
    """Return what a reply is kept under: the digest of the address and of every word of the request."""
    return str(Digest.of_bytes(json.dumps([url, body], sort_keys=True).encode()))


class Journal:
    """An open journal; use ``open_journal``. Threads may share it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._replies: dict[str, str] = {}
        content = stream.read()
        whole = content.rfind(b"\n") + 1
        for line in content[:whole].splitlines():
            try:
                entry = json.loads(line)
                self._replies[entry["key"]] = entry["reply"]
            except (ValueError, LookupError, TypeError):
                continue  # a damaged line costs one question more, not the rest of the journal
        stream.truncate(whole)  # a crash may have cut the last line short

    def find(self, key: str) -> str | None:
        """Return the reply kept under ``key``."""
        return self._replies.get(key)

    def keep(self, key: str, reply: str, **about: str) -> None:
        """Put a reply on disk; ``about`` tells people what it belongs to."""
        line = json.dumps({"key": key, **about, "reply": reply}, ensure_ascii=False).encode()
        with self._lock:
            self._stream.write(line + b"\n")
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._replies[key] = reply


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """Open the journal at ``path`` and keep it for this process.

    Raises:
        StackError: if another process has it open.
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackError(
                f"{path}: another `lamina judge` is writing to it", hint="wait until it has ended"
            ) from error
        stream.seek(0)
        yield Journal(stream)
