"""Content digests of large files, remembered while the files stay untouched."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from lamina.model.machine import cache_folder
from lamina.refs import Digest

__all__ = ["digest_files"]


def digest_files(paths: Sequence[Path]) -> Digest:
    """Return the digest of the files' names and contents; a pure function of both, in the order given.

    A file's own digest is remembered under its path, size and modification time, since hashing gigabytes at every
    command would cost seconds.
    """
    return Digest.of_bytes("".join(f"{path.name} {_digest_file(path)}\n" for path in paths).encode())


def _digest_file(path: Path) -> Digest:
    stat = path.stat()
    key = Digest.of_bytes(f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{stat.st_ino}".encode())
    note = cache_folder() / "digests" / key.hex
    try:
        return Digest.parse(json.loads(note.read_text())["digest"])
    except (OSError, ValueError, KeyError):
        digest = Digest.of_file(path)
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        scratch = note.with_suffix(f".{os.getpid()}")
        scratch.write_text(json.dumps({"path": str(path), "digest": str(digest)}))
        scratch.replace(note)
    except OSError:
        pass  # a read-only cache only costs time
    return digest
