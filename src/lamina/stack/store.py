"""Where blobs lie: an OCI image layout under ``.lamina/``.

    .lamina/
      oci-layout            {"imageLayoutVersion": "1.0.0"}
      index.json            manifests of layers and stacks; refs are their annotations
      blobs/sha256/<hex>    everything else, by content
      logs/<ref>            one JSON line per move of a ref
      runs/  cache/  results/   working files; safe to delete

Every file is written under a temporary name, fsynced and renamed, blobs before the manifests that name them and those
before the index: a crash at any moment leaves a valid layout.

Source: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lamina.errors import MachineError, StackError
from lamina.refs import Digest
from lamina.stack.manifest import Descriptor, Index

__all__ = ["FOLDER", "Store", "write_atomically"]

FOLDER = ".lamina"
_LOCK_WAIT_S = 10.0


class Store:
    """The store of one project."""

    def __init__(self, root: Path) -> None:
        """Open the layout in ``root``; use ``create`` or ``find``."""
        self.root = root

    @property
    def project(self) -> Path:
        """The folder that holds ``lamina.toml`` and ``.lamina/``."""
        return self.root.parent

    @classmethod
    def create(cls, project: Path) -> Store:
        """Make an empty layout in ``project`` and return it; one that is there already is kept."""
        root = project / FOLDER
        store = cls(root)
        with _disk_errors(root):
            (root / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
            if not (root / "index.json").exists():
                write_atomically(root / "index.json", Index().canonical())
            write_atomically(root / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        return store

    @classmethod
    def find(cls, start: Path) -> Store:
        """Return the store of the project that ``start`` lies in.

        Raises:
            StackError: if no folder from ``start`` upwards has one.
        """
        for folder in (start.absolute(), *start.absolute().parents):
            if (folder / FOLDER / "oci-layout").exists():
                return cls(folder / FOLDER)
        raise StackError(f"{start}: not inside a lamina project", hint="run `lamina init` here first")

    def put_bytes(self, content: bytes, media_type: str) -> Descriptor:
        """Keep ``content`` and return what names it."""
        digest = Digest.of_bytes(content)
        path = self.blob_path(str(digest))
        if not path.exists():
            with _disk_errors(path):
                write_atomically(path, content)
        return Descriptor(mediaType=media_type, digest=str(digest), size=len(content))

    def put_file(self, path: Path, media_type: str) -> Descriptor:
        """Keep the content of ``path`` and return what names it."""
        return self.put_bytes(path.read_bytes(), media_type)

    def blob_path(self, digest: str) -> Path:
        """Return where the blob with this digest lies, or would lie."""
        return self.root / "blobs" / "sha256" / Digest.parse(digest).hex

    def has(self, digest: str) -> bool:
        """Return whether the blob is here."""
        return self.blob_path(digest).exists()

    def read_bytes(self, digest: str) -> bytes:
        """Return a blob's content, checked against its digest.

        Raises:
            StackError: if it is missing or damaged.
        """
        try:
            content = self.blob_path(digest).read_bytes()
        except OSError as error:
            raise StackError(
                f"blob {digest[:19]} is missing from {self.root}", hint="pull or train it again"
            ) from error
        if str(Digest.of_bytes(content)) != digest:
            raise StackError(f"blob {digest[:19]} in {self.root} is damaged", hint="restore it from a backup")
        return content

    def read_index(self) -> Index:
        """Return the index.

        Raises:
            StackError: if it is missing or damaged.
        """
        path = self.root / "index.json"
        try:
            return Index.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise StackError(
                f"{path}: missing or damaged", hint="restore it from a backup; blobs are intact"
            ) from error

    def write_index(self, index: Index) -> None:
        """Replace the index. Call under ``lock``."""
        with _disk_errors(self.root):
            write_atomically(self.root / "index.json", index.canonical())

    def append_log(self, name: str, entry: dict[str, Any]) -> None:
        """Add one JSON line to ``logs/<name>``. Call under ``lock``."""
        path = self.root / "logs" / name
        with _disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as log:
                log.write(json.dumps(entry, sort_keys=True) + "\n")
                log.flush()
                os.fsync(log.fileno())

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other lamina processes from changing index and refs meanwhile.

        Raises:
            StackError: if another process holds the lock for more than ten seconds.
        """
        deadline = time.monotonic() + _LOCK_WAIT_S
        with _disk_errors(self.root), (self.root / "lock").open("w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StackError(f"{self.root}: another lamina holds the lock", hint="wait for it") from None
                    time.sleep(0.01)
            yield


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that it is there whole or not at all, also after a crash."""
    handle, scratch = tempfile.mkstemp(prefix=f".{path.name[:16]}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(scratch).chmod(0o644)
        Path(scratch).replace(path)
    except BaseException:
        Path(scratch).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path}: cannot be written: {error.strerror}", hint="check free disk and permissions"
        ) from error
