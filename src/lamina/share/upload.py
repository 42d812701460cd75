"""A blob into a registry: in pieces, going on after a dropped connection from where the registry says it stands.

Source: OCI distribution-spec 1.1, "Pushing blobs", "Pushing a blob in chunks", "Mounting a blob from another
repository".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import requests

from lamina.errors import StackError
from lamina.records import Tick
from lamina.refs import Digest
from lamina.share.registry import Dropped, Patience, Registry
from lamina.stack.manifest import Descriptor
from lamina.stack.store import disk_errors

__all__ = ["upload_blob"]

_CHUNK_BYTES = 8 << 20
_BINARY = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the registry takes the rest of a blob, how much of it it has, and the least it takes at a time."""

    url: str
    offset: int = 0
    least: int = 0


class _Window:
    """``length`` bytes of a file from ``start`` on, read as they are sent; ``sent`` is told how far that is."""

    def __init__(self, path: Path, start: int, length: int, sent: Callable[[int], None]) -> None:
        self._stream = path.open("rb")
        self._stream.seek(start)
        self._at, self._end, self._length, self._sent = start, start + length, length, sent

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(1 << 16):
            yield piece

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        piece = self._stream.read(left if size < 0 else min(size, left))
        self._at += len(piece)
        self._sent(self._at)
        if self._at == self._end:
            self._stream.close()
        return piece


class _BlobUpload:
    """One blob on its way."""

    def __init__(self, registry: Registry, item: Descriptor, path: Path, tick: Tick, chunk_bytes: int) -> None:
        self._registry, self._item, self._path = registry, item, path
        self._tick, self._chunk_bytes = tick, chunk_bytes
        self._what = f"blob {item.digest[:19]}"
        self._shown = 0

    def begin(self, source: str | None) -> _Place | None:
        """Return where a new upload goes; None if the registry took the blob from the repository ``source``."""
        url = self._registry.url("blobs/uploads/")
        if source:
            url += f"?mount={self._item.digest}&from={source}"
        # Whoever may not read the source is told so here and there with a refusal; it is only a short cut.
        shy = (401, 403, 404, 405) if source else ()
        with self._registry.request("POST", url, accept=(201, 202, *shy), what=self._what) as answer:
            if source and answer.status_code == requests.codes.created:
                return None
            if answer.ok:
                least = answer.headers.get("OCI-Chunk-Min-Length", "0")
                where = self._registry.location(answer, self._what)
                return _Place(where, least=int(least) if least.isdecimal() else 0)
        return self.begin(None)

    def ask(self, place: _Place) -> _Place | None:
        """Return where an upload stands after the connection dropped; None if the blob has arrived."""
        with self._registry.request("GET", place.url, accept=(200, 202, 204, 400, 404, 416), what=self._what) as answer:
            if answer.ok and (offset := _offset(answer)) is not None:
                url = self._registry.location(answer, self._what) if "Location" in answer.headers else place.url
                return replace(place, url=url, offset=offset)
        # It has ended the upload: all is there and only its answer was lost, or it begins anew.
        return None if self._registry.has_blob(self._item.digest) else self.begin(None)

    def send(self, place: _Place) -> _Place:
        """Send the next piece and return where the following one goes."""
        length = min(max(self._chunk_bytes, place.least), self._item.size - place.offset)
        end = place.offset + length
        with self._registry.request(
            "PATCH",
            place.url,
            headers=_BINARY | {"Content-Range": f"{place.offset}-{end - 1}"},
            body=lambda: self._window(place.offset, length),
            accept=(200, 201, 202, 204, 404, 416),
            what=self._what,
        ) as answer:
            if not answer.ok:
                raise Dropped("the registry lost track of the upload")
            found = _offset(answer)
            return replace(
                place, url=self._registry.location(answer, self._what), offset=end if found is None else found
            )

    def finish(self, place: _Place) -> bool:
        """Send what is left with the digest, and return whether the registry got what the digest says."""
        length = self._item.size - place.offset
        with self._registry.request(
            "PUT",
            f"{place.url}{'&' if urlsplit(place.url).query else '?'}digest={self._item.digest}",
            headers=_BINARY | ({} if length else {"Content-Length": "0"}),
            body=(lambda: self._window(place.offset, length)) if length else None,
            accept=(200, 201, 202, 204, 400, 404, 416),
            what=self._what,
        ) as answer:
            if answer.status_code in (404, 416):
                raise Dropped("the registry lost track of the upload")
            return answer.ok

    def is_one_piece(self, place: _Place) -> bool:
        """Return whether what is left goes with the closing request."""
        return self._item.size - place.offset <= (self._chunk_bytes if place.offset == 0 else 0)

    def show(self, at: int) -> None:
        """Tell the progress bar how far the blob is; a new try may be further back."""
        self._tick(at - self._shown)
        self._shown = at

    def check_own(self) -> None:
        """Refuse to go on if the blob in the store is not what its digest says."""
        if str(Digest.of_file(self._path)) != self._item.digest:
            raise StackError(f"{self._what} in {self._path.parents[2]} is damaged", hint="`lamina fsck` tells more")

    def _window(self, start: int, length: int) -> _Window:
        with disk_errors(self._path):
            return _Window(self._path, start, length, self.show)


def upload_blob(
    registry: Registry,
    item: Descriptor,
    path: Path,
    tick: Tick,
    *,
    source: str | None = None,
    chunk_bytes: int = _CHUNK_BYTES,
) -> bool:
    """Put the content of ``path`` into the registry, and return whether it had to be sent.

    Args:
        registry: the repository.
        item: digest and size.
        path: the blob's file.
        tick: told how many bytes have been sent.
        source: a repository of the same registry that may hold the blob already: it is then taken from there.
        chunk_bytes: the most that is sent in one request; a blob no larger goes whole.

    Raises:
        Dropped: if the connection keeps ending without progress.
        StackError: if the registry refuses the blob, or the blob is damaged.
    """
    upload = _BlobUpload(registry, item, path, tick, chunk_bytes)
    patience = Patience(registry.pauses_s)
    place: _Place | None = None
    begun = refused = False
    while True:
        try:
            place = upload.ask(place) if place else upload.begin(None if begun else source)
            if place is None:
                upload.show(item.size)
                return begun
            begun = True
            upload.show(place.offset)
            while not upload.is_one_piece(place):
                place = upload.send(place)
            if upload.finish(place):
                upload.show(item.size)
                return True
            upload.check_own()
            if refused:
                raise StackError(
                    f"{registry.reference.registry} says that blob {item.digest[:19]} arrived with another digest",
                    hint="push again; if it stays so, the network or the registry changes content",
                )
            refused, place = True, None
        except Dropped as drop:
            patience.wait(drop, place.offset if place else 0)


def _offset(answer: requests.Response) -> int | None:
    """Return how many bytes the registry has, from the last one's place in the ``Range`` header.

    ``0-0`` stands for none as well as for one in distribution, so it is read as none: at worst a digest is refused and
    the blob sent once more.
    """
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
    if found is None:
        return None
    return int(found[1]) + 1 if found[1] != "0" else 0
