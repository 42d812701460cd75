"""A stack in a registry, and the way of its blobs into the store. Nothing that it says is believed unchecked.

Blobs are only ever written under their own digest, whatever names the manifest gives them, and into the store only once
their content has that digest.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from pydantic import ValidationError

from lamina.errors import MachineError, StackError
from lamina.records import Tick
from lamina.refs import Digest
from lamina.share.download import download_blob
from lamina.share.reference import Reference
from lamina.share.registry import LARGEST_MANIFEST, Registry
from lamina.stack.manifest import PATH_KEY, STACK_TYPE, TITLE_KEY, Descriptor, Manifest
from lamina.stack.store import Store

__all__ = ["Artifact", "parse_manifest"]

_INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


class Artifact:
    """A stack that a registry holds.

    Attributes:
        manifest: what it consists of.
        digest: of the manifest.
        received: sizes of the blobs that have been fetched.
    """

    def __init__(self, store: Store, registry: Registry) -> None:
        """Read the manifest.

        Raises:
            StackError: if there is none, or it is not that of a stack.
            MachineError: if the registry cannot be reached.
        """
        content, self.digest = registry.read_manifest()
        self.manifest = parse_manifest(content, registry.reference)
        self.received: list[int] = []
        self._store, self._registry = store, registry
        listed = (self.manifest.config, *self.manifest.layers)
        self._items = {item.digest: item for item in listed}

    def missing(self, digests: Iterable[str]) -> list[Descriptor]:
        """Return those of the blobs that the manifest lists and the store lacks, each once."""
        listed = (self._items[digest] for digest in dict.fromkeys(digests) if digest in self._items)
        return [item for item in listed if not self._is_here(item)]

    def require(self, digest: str, what: str) -> None:
        """Check that a blob is in the manifest, or here already.

        Raises:
            StackError: if it is in neither.
        """
        if digest not in self._items and not self._store.has(digest):
            raise StackError(
                f"the manifest of {self._registry.reference} lacks blob {digest[:19]}, {what}",
                hint="push the stack again from a project that has it whole",
            )

    def fetch_config(self, digest: str, what: str) -> None:
        """Bring a configuration, which is small, into the store, unless it is there.

        Raises:
            StackError: if the registry lacks it, it is not what its digest says, or too large for a configuration.
            MachineError: if the disk is full or the registry cannot be reached.
        """
        self.require(digest, what)
        for item in self.missing([digest]):
            if item.size > LARGEST_MANIFEST:
                raise StackError(
                    f"blob {digest[:19]}, {what}, has {item.size:,} bytes, more than any configuration",
                    hint="ask whoever pushed it",
                )
            self.fetch(item, lambda amount, detail="": None)

    def fetch(self, item: Descriptor, tick: Tick) -> None:
        """Bring a blob into the store. Call under the store's lock for pulls.

        Raises:
            StackError: if the registry lacks it, or it is not what its digest and size say.
            MachineError: if the disk is full or the registry cannot be reached.
        """
        with self._registry.reaching():
            download_blob(self._registry, item, self._store.partial_path(item.digest), tick)
        self._store.adopt(item.digest)
        self.received.append(item.size)

    def check_space(self, items: Iterable[Descriptor]) -> None:
        """Check that the disk has room for blobs, before any of them is fetched.

        Raises:
            MachineError: if it has not.
        """
        partial = (self._store.partial_path(item.digest) for item in items)
        there = sum(path.stat().st_size for path in partial if path.exists())
        needed, free = sum(item.size for item in items) - there, shutil.disk_usage(self._store.root).free
        if needed > free:
            raise MachineError(
                f"{self._store.root}: {needed:,} bytes are to come, {free:,} are free",
                hint="free some disk, or `lamina gc`",
            )

    def _is_here(self, item: Descriptor) -> bool:
        """Return whether the store has the blob, and whole: a damaged one is fetched anew."""
        path = self._store.blob_path(item.digest)
        try:
            return path.stat().st_size == item.size and str(Digest.of_file(path)) == item.digest
        except OSError:
            return False


def parse_manifest(content: bytes, reference: Reference) -> Manifest:
    """Return the stack's manifest that ``content`` spells.

    Raises:
        StackError: if it is something else, or names anything but blobs by their digest.
    """
    try:
        found: Any = json.loads(content)
        is_list = found.get("mediaType") in _INDEXES
        kind = "a list of images" if is_list else found.get("artifactType") or found["config"]["mediaType"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StackError(f"the manifest of {reference} cannot be read", hint="push it again") from error
    if kind != STACK_TYPE:
        raise StackError(
            f"{reference} is not a lamina stack but {kind}",
            hint="`lamina import` takes adapters that other tools made; images are for docker",
        )
    try:
        manifest = Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise StackError(
            f"the manifest of {reference} is wrong at {'.'.join(map(str, first['loc']))}: {first['msg'].lower()}",
            hint="upgrade lamina if a newer version pushed it, else push it again",
        ) from error
    for item in (manifest.config, *manifest.layers):
        _check_item(item, reference)
    return manifest


def _check_item(item: Descriptor, reference: Reference) -> None:
    try:
        Digest.parse(item.digest)
    except ValueError as error:
        raise StackError(
            f"the manifest of {reference} names '{item.digest[:80]}', which is not sha256: and 64 hex digits",
            hint="do not pull from there: no lamina wrote it",
        ) from error
    if item.size < 0:
        raise StackError(
            f"the manifest of {reference} gives {item.digest[:19]} a size below zero", hint="push it again"
        )
    for key in (TITLE_KEY, PATH_KEY):
        path = PurePosixPath(item.annotations.get(key, ""))
        if path.is_absolute() or ".." in path.parts:
            raise StackError(
                f"the manifest of {reference} puts a file at '{path}', outside its own folder",
                hint="do not pull from there: no lamina wrote it",
            )
