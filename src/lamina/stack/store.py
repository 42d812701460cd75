"""Where blobs lie: an OCI image layout under ``.lamina/``.

    .lamina/
      oci-layout            {"imageLayoutVersion": "1.0.0"}
      index.json            manifests of layers and stacks; refs are their annotations
      blobs/sha256/<hex>    everything else, by content
      logs/<ref>            one JSON line per move of a ref
      ledger.jsonl          what every step took, one JSON line each
      partial/<hex>         a blob that is still on its way from a registry
      work                  locked by the command that trains, and what it says of itself
      forgotten             identities of rows that must not be trained on any more
      routers/              which layers answer which request; trained again in seconds
      runs/  cache/  results/   working files; safe to delete

Every file is written under a temporary name, fsynced and renamed, blobs before the manifests that name them and those
before the index: a crash at any moment leaves a valid layout.

Source: OCI image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from lamina.errors import BusyError, MachineError, StackError
from lamina.refs import Digest
from lamina.stack.manifest import Descriptor, Index

__all__ = ["FOLDER", "Store", "disk_errors", "scratch_folder", "write_atomically"]

FOLDER = ".lamina"
_LOCK_WAIT_S = 10.0
_PIECE_BYTES = 1 << 20


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
        with disk_errors(root):
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
        """Keep ``content`` and return what names it. A damaged copy that is here already is replaced.

        Raises:
            MachineError: if the disk is full or read-only.
        """
        digest = Digest.of_bytes(content)
        path = self.blob_path(str(digest))
        with disk_errors(path):
            if _is_intact(path, str(digest)):
                os.utime(path)  # in use again: garbage collection spares what is young
            else:
                write_atomically(path, content)
        return Descriptor(mediaType=media_type, digest=str(digest), size=len(content))

    def put_file(self, path: Path, media_type: str) -> Descriptor:
        """Keep the content of ``path``, copied in pieces, and return what names it.

        Raises:
            StackError: if ``path`` cannot be read.
            MachineError: if the disk is full or read-only.
        """
        try:
            source = path.open("rb")
        except OSError as error:
            raise StackError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
        blobs = self.root / "blobs" / "sha256"
        with source, disk_errors(blobs), _scratch_file(blobs, path.name) as (stream, scratch):
            hasher, size = hashlib.sha256(), 0
            while piece := source.read(_PIECE_BYTES):
                hasher.update(piece)
                size += stream.write(piece)
            digest = str(Digest(hasher.hexdigest()))
            _commit(stream, scratch, self.blob_path(digest))
        return Descriptor(mediaType=media_type, digest=digest, size=size)

    def partial_path(self, digest: str | Digest) -> Path:
        """Return where a blob that is still on its way is kept, also across processes, until ``adopt`` takes it.

        Raises:
            StackError: if ``digest`` is not spelled ``sha256:<64 hex digits>``.
            MachineError: if the disk is full or read-only.
        """
        folder = self.root / "partial"
        with disk_errors(folder):
            folder.mkdir(exist_ok=True)
        return folder / self.blob_path(digest).name

    def adopt(self, digest: str | Digest) -> None:
        """Take the blob at ``partial_path`` into the store, if it is what its digest says; else delete it.

        Raises:
            StackError: if it is something else.
            MachineError: if the disk is full or read-only.
        """
        path, target = self.partial_path(digest), self.blob_path(digest)
        with disk_errors(path):
            if str(Digest.of_file(path)) != str(digest):
                path.unlink()
                raise StackError(f"what arrived as blob {str(digest)[:19]} has another digest", hint="pull it again")
            with path.open("rb") as stream:
                _commit(stream, path, target)

    def blob_path(self, digest: str | Digest) -> Path:
        """Return where the blob with this digest lies, or would lie.

        Raises:
            StackError: if ``digest`` is not spelled ``sha256:<64 hex digits>``.
        """
        try:
            return self.root / "blobs" / "sha256" / Digest.parse(str(digest)).hex
        except ValueError as error:
            raise StackError(
                f"'{digest}' is not a digest: expected sha256: and 64 hex digits", hint="`lamina log` lists them"
            ) from error

    def has(self, digest: str | Digest) -> bool:
        """Return whether the blob is here."""
        return self.blob_path(digest).exists()

    def read_bytes(self, digest: str | Digest) -> bytes:
        """Return a blob's content, checked against its digest.

        Raises:
            StackError: if it is missing or damaged.
        """
        path, short = self.blob_path(digest), str(digest)[:19]
        try:
            content = path.read_bytes()
        except FileNotFoundError as error:
            raise StackError(f"blob {short} is missing from {self.root}", hint="pull or train it again") from error
        except OSError as error:
            raise StackError(
                f"blob {short} in {self.root} cannot be read: {error.strerror}", hint=f"check the permissions of {path}"
            ) from error
        if str(Digest.of_bytes(content)) != str(digest):
            raise StackError(
                f"blob {short} in {self.root} is damaged", hint="restore it from a backup, or pull or train it again"
            )
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
        with disk_errors(self.root):
            write_atomically(self.root / "index.json", index.canonical())

    def append_log(self, name: str, entry: dict[str, Any]) -> None:
        """Add one JSON line to ``logs/<name>``, in place of a last line that a crash cut short. Call under ``lock``."""
        path = self.root / "logs" / name
        with disk_errors(path):
            path.parent.mkdir(exist_ok=True)
            with path.open("ab+") as log:
                log.seek(0)
                log.truncate(log.read().rfind(b"\n") + 1)
                log.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
                log.flush()
                os.fsync(log.fileno())

    @contextmanager
    def lock(self, name: str = "lock") -> Iterator[None]:
        """Keep other lamina processes from changing index and refs, or what else ``name`` is for, meanwhile.

        Raises:
            StackError: if another process holds the lock for more than ten seconds.
        """
        deadline = time.monotonic() + _LOCK_WAIT_S
        with disk_errors(self.root):
            handle = (self.root / name).open("w")
        with handle:
            while not self._is_locked_by(handle):
                if time.monotonic() > deadline:
                    raise StackError(
                        f"{self.root}: another lamina has held the lock for {_LOCK_WAIT_S:g} seconds",
                        hint="wait until it ends, then run the command again",
                    )
                time.sleep(0.01)
            yield

    @contextmanager
    def claim(self, verb: str) -> Iterator[None]:
        """Keep other long work out of the project meanwhile; who comes second is told at once who was first.

        The system lets go of the claim when its process ends, however it ends, so none is ever stale.

        Raises:
            BusyError: if another process, or another claim in this one, has the project; it names verb, process and
                since when.
        """
        path = self.root / "work"
        with self._open_claim(path) as handle:
            note = {"verb": verb, "pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
            with disk_errors(self.root):
                handle.truncate(0)
                handle.write(json.dumps(note))
                handle.flush()
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def _open_claim(self, path: Path) -> IO[str]:
        while True:
            with disk_errors(self.root):
                handle = path.open("a+")
            if not self._is_locked_by(handle):
                handle.close()
                raise BusyError(
                    f"another lamina is at work in {self.project}: {_describe_holder(path)}",
                    hint="wait until it ends, or stop it there with Ctrl-C; nothing was changed here",
                )
            # Who held it before may have removed the file after we opened it; a lock on that file keeps nobody out.
            if path.exists() and path.stat().st_ino == os.fstat(handle.fileno()).st_ino:
                return handle
            handle.close()

    def _is_locked_by(self, handle: IO[str]) -> bool:
        with disk_errors(self.root):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True


def _describe_holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text("utf-8"))
        return f"`lamina {note['verb']}`, process {note['pid']}, since {note['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it has just begun"


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that it is there whole or not at all, also after a crash."""
    with _scratch_file(path.parent, path.name) as (stream, scratch):
        stream.write(content)
        _commit(stream, scratch, path)


@contextmanager
def scratch_folder(near: Path) -> Iterator[Path]:
    """Yield a new folder on the disk of the folder ``near``, removed at the end unless it was moved away.

    Raises:
        MachineError: if it cannot be made.
    """
    with disk_errors(near):
        near.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=near))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _scratch_file(folder: Path, name: str) -> Iterator[tuple[IO[bytes], Path]]:
    handle, scratch = tempfile.mkstemp(prefix=f".{name[:16]}-", dir=folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream, Path(scratch)
    finally:
        Path(scratch).unlink(missing_ok=True)


def _commit(stream: IO[bytes], scratch: Path, path: Path) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    scratch.chmod(0o644)
    scratch.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _is_intact(path: Path, digest: str) -> bool:
    try:
        return str(Digest.of_file(path)) == digest
    except OSError:
        return False


@contextmanager
def disk_errors(path: Path, hint: str = "check free disk and permissions") -> Iterator[None]:
    """Turn an ``OSError`` while ``path`` is written into a ``MachineError`` that says what to do."""
    try:
        yield
    except OSError as error:
        raise MachineError(f"{path}: cannot be written: {error.strerror or error}", hint=hint) from error
