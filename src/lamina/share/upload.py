"""A blob into a registry: in pieces, going on after a dropped connection from where the registry says it stands.

Source: OCI distribution-spec 1.1, "Pushing blobs", "Pushing a blob in chunks", "Mounting a blob from another
repository".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import requests

from lamina.errors import StackError
from lamina.records import Tick
from lamina.refs import Digest
from lamina.share.registry import Dropped, Patience, Registry, reason_of
from lamina.stack.manifest import Descriptor

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
    """``length`` bytes of an open file from ``start`` on, read as they are sent; ``sent`` is told how far that is."""

    def __init__(self, blob: IO[bytes], start: int, length: int, sent: Callable[[int], None]) -> None:
        self._blob, self._at, self._end, self._length, self._sent = blob, start, start + length, length, sent
        blob.seek(start)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.read(1 << 16):
            yield piece

    def read(self, size: int = -1) -> bytes:
        left = self._end - self._at
        piece = self._blob.read(left if size < 0 else min(size, left))
        self._at += len(piece)
        self._sent(self._at)
        return piece


class _Refused(Exception):  # noqa: N818  (tried again before it becomes an error)
    """The registry did not get what the digest says."""


class _BlobUpload:
    """One blob on its way."""

    def __init__(self, registry: Registry, item: Descriptor, blob: IO[bytes], tick: Tick, chunk_bytes: int) -> None:
        self._registry, self._item, self._blob = registry, item, blob
        self._tick, self._chunk_bytes = tick, chunk_bytes
        self._what = f"blob {item.digest[:19]}"
        self._shown = 0

    def run(self, source: str | None) -> bool:
        """Send the blob, and return whether it had to be sent.

        Raises:
            _Refused: if something else than the blob arrived.
            Dropped: if the connection keeps ending without progress.
        """
        patience = Patience(self._registry.pauses_s)
        place: _Place | None = None
        begun = False
        while True:
            try:
                place = self.ask(place) if place else self.begin(None if begun else source)
                if place is None:
                    self.show(self._item.size)
                    return begun
                begun = True
                self.show(place.offset)
                while not self.is_last_piece(place):
                    place = self.send(place)
                self.finish(place)
                break
            except Dropped as drop:
                patience.wait(drop, place.offset if place else 0)
        self.show(self._item.size)
        return True

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
            offset = _offset(answer) if answer.ok else None
            # Anything else is half a number, or bytes that are not ours: the digest would be refused in the end.
            if offset is not None and place.offset <= offset <= self._item.size:
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
            if not answer.ok or _offset(answer) not in (None, end):
                raise Dropped("the registry lost track of the upload")
            return replace(place, url=self._registry.location(answer, self._what), offset=end)

    def finish(self, place: _Place) -> None:
        """Send what is left, with the digest that the whole must have."""
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
            if not answer.ok:
                raise _Refused(reason_of(answer))

    def is_last_piece(self, place: _Place) -> bool:
        """Return whether what is left goes with the closing request: a small blob whole, of a large one nothing."""
        return self._item.size - place.offset <= (self._chunk_bytes if place.offset == 0 else 0)

    def show(self, at: int) -> None:
        """Tell the progress bar how far the blob is; a new try may be further back."""
        self._tick(at - self._shown)
        self._shown = at

    def _window(self, start: int, length: int) -> _Window:
        return _Window(self._blob, start, length, self.show)


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
    try:
        blob = path.open("rb")
    except OSError as error:
        raise StackError(f"{path}: cannot be read: {error.strerror}", hint="`lamina fsck` tells more") from error
    with blob:
        upload = _BlobUpload(registry, item, blob, tick, chunk_bytes)
        try:
            return upload.run(source)
        except _Refused:
            if str(Digest.of_file(path)) != item.digest:
                raise StackError(
                    f"blob {item.digest[:19]} in {path.parents[2]} is damaged", hint="`lamina fsck` tells more"
                ) from None
        try:  # an upload that went on after a drop may have gone on at the wrong byte
            return upload.run(None)
        except _Refused as refusal:
            raise StackError(
                f"{registry.reference.registry} refuses blob {item.digest[:19]}: {refusal}",
                hint="push again; if it stays so, ask whoever runs the registry",
            ) from refusal


def _offset(answer: requests.Response) -> int | None:
    """Return how many bytes the registry has, from the last one's place in the ``Range`` header.

    ``0-0`` stands for none as well as for one in distribution, so it is read as none: at worst a digest is refused and
    the blob sent once more.
    """
    found = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
    if found is None:
        return None
    return int(found[1]) + 1 if found[1] != "0" else 0
