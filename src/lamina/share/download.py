"""A blob out of a registry, into a file that a dropped connection or a killed process leaves ready to go on from.

Source: OCI distribution-spec 1.1, "Pulling blobs"; RFC 9110, section 14 (ranges).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import requests

from lamina.errors import StackError
from lamina.records import Tick
from lamina.share.registry import Dropped, Patience, Registry, read_pieces
from lamina.stack.manifest import Descriptor
from lamina.stack.store import disk_errors

__all__ = ["download_blob"]

_FULL = "free some disk, then pull again: what has arrived is kept"


class _OtherSize(Dropped):
    """The registry's copy has another size; true once it is said twice, for a cut can leave half a number."""


def download_blob(registry: Registry, item: Descriptor, partial: Path, tick: Tick) -> None:
    """Fill ``partial`` up to the blob's size; what it holds already is kept, and counted as done.

    Whether it is what its digest says is for the caller to check.

    Args:
        registry: the repository.
        item: digest and size.
        partial: the file.
        tick: told how many bytes there are.

    Raises:
        Dropped: if the connection keeps ending without progress.
        StackError: if the registry has no such blob, or one of another size.
        MachineError: if the disk is full.
    """
    patience = Patience(registry.pauses_s)
    with disk_errors(partial, hint=_FULL):
        partial.touch()
        if partial.stat().st_size > item.size:  # left by something else
            os.truncate(partial, 0)
    have = partial.stat().st_size
    tick(have)
    said: list[str] = []
    while have < item.size:
        try:
            _fetch_rest(registry, item, partial)
            drop = Dropped("the connection was cut")
        except _OtherSize as other:
            drop = other
            if str(other) in said:
                partial.unlink()
                raise StackError(str(other), hint="the registry's copy is damaged: push the stack again") from other
            said.append(str(other))
        except Dropped as caught:
            drop = caught
        before, have = have, partial.stat().st_size
        tick(have - before)
        if have < item.size:
            patience.wait(drop, have)


def _fetch_rest(registry: Registry, item: Descriptor, partial: Path) -> None:
    have, what = partial.stat().st_size, f"blob {item.digest[:19]}"
    ranged = {"Range": f"bytes={have}-"} if have else {}
    with registry.request(
        "GET", registry.url(f"blobs/{item.digest}"), headers=ranged, accept=(200, 206, 416), what=what
    ) as answer:
        start, total = _extent(answer)
        if total not in (None, item.size):
            raise _OtherSize(
                f"{what} has {total:,} bytes in {registry.reference.registry}, its manifest says {item.size:,}"
            )
        if start not in (0, have):
            os.truncate(partial, 0)
            raise Dropped("the registry sent another part of a blob than was asked for")
        with disk_errors(partial, hint=_FULL), partial.open("r+b") as stream:
            if start < have:
                stream.truncate(start)
            stream.seek(start)
            left = item.size - start
            for piece in read_pieces(answer):
                stream.write(piece[:left])
                left -= len(piece)
                if left < 0:  # it has no length and no end: the digest tells what it was
                    break


def _extent(answer: requests.Response) -> tuple[int | None, int | None]:
    """Return where the answer's content begins in the blob, and the whole blob's size, each if the answer says."""
    if answer.status_code == requests.codes.ok:
        length = answer.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else None
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", ""))
    if found is None:
        return None, None
    return int(found[1]) if found[1] else None, int(found[2]) if found[2] != "*" else None
