"""What the refs reach, and the removal of everything else.

A ref reaches its stack, the stacks it held before (so that undo works), their layers, and all that those layers name:
weights, row identities, sampled and held-out rows, the config of the parent stack. It does not reach the layers of a
parent stack, nor those that a squashed layer was made of: dropping and squashing free their space.

A command in flight has written blobs that nothing names yet. What is younger than an hour is therefore kept.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lamina.stack.layers import id_of, read_layer, read_stack
from lamina.stack.lineage import history, list_refs
from lamina.stack.manifest import LAYER_TYPE, STACK_TYPE, TITLE_KEY, Descriptor, Index
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = ["GRACE_S", "Garbage", "collect_garbage", "find_garbage", "layer_blobs"]

GRACE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Garbage:
    """What no ref reaches: stacks and layers (name, digest), the files to remove, and their size.

    The files are blobs, scratch files of commands that died, and downloads that were never finished.
    """

    stacks: tuple[tuple[str, str], ...]
    layers: tuple[tuple[str, str], ...]
    files: tuple[Path, ...]
    size_bytes: int
    entries: tuple[Descriptor, ...]


def find_garbage(store: Store, *, forget_history: bool = False, grace_s: float = GRACE_S) -> Garbage:
    """Return what no ref reaches; with ``forget_history`` also what only the past of a ref reaches.

    Raises:
        StackError: if something that a ref reaches is damaged: nothing may be removed then.
    """
    index = store.read_index()
    young = time.time() - grace_s
    reached = _reached(store, index, forget_history=forget_history, young=young)
    entries = [item for item in index.manifests if id_of(store, item) not in reached]
    kept = _blobs_of(store, index, reached)
    blobs = {path for path in (store.root / "blobs" / "sha256").iterdir() if f"sha256:{path.name}" not in kept}
    partial = store.root / "partial"
    left = {*blobs, *(partial.iterdir() if partial.exists() else ())}
    gone = {path: path.stat().st_size for path in sorted(left) if path.stat().st_mtime < young}
    return Garbage(
        stacks=tuple(_titles(store, entries, STACK_TYPE)),
        layers=tuple(_titles(store, entries, LAYER_TYPE)),
        files=tuple(gone),
        size_bytes=sum(gone.values()),
        entries=tuple(entries),
    )


def collect_garbage(store: Store, *, forget_history: bool = False, grace_s: float = GRACE_S) -> Garbage:
    """Remove what ``find_garbage`` finds, and return it. A crash on the way leaves a whole store and some garbage.

    Raises:
        StackError: if something that a ref reaches is damaged, or another lamina holds the lock.
        MachineError: if the disk refuses.
    """
    with store.lock(), disk_errors(store.root):
        garbage = find_garbage(store, forget_history=forget_history, grace_s=grace_s)
        if forget_history:
            for name, digest in list_refs(store).items():
                _cut_log(store, name, digest)
        index = store.read_index()
        left = tuple(item for item in index.manifests if item not in garbage.entries)
        store.write_index(index.model_copy(update={"manifests": left}))
        for path in garbage.files:
            path.unlink(missing_ok=True)
    return garbage


def layer_blobs(store: Store, digest: str) -> Iterator[str]:
    """Yield the digests of a layer's config and of every blob it names, whether or not it is here.

    Raises:
        StackError: if the config is missing or damaged.
    """
    layer = read_layer(store, digest)
    yield digest
    yield from (blob for blob in (layer.weights, layer.rows, layer.replay, layer.heldout, layer.parent) if blob)


def _reached(store: Store, index: Index, *, forget_history: bool, young: float) -> set[str]:
    """Return the digests of the stacks and layers that a ref, its history, or a command in flight holds."""
    refs = list_refs(store)
    stacks = set(refs.values())
    if not forget_history:
        moved = {digest for name in refs for move in history(store, name) for digest in (move.old, move.new)}
        stacks |= {digest for digest in moved if digest and store.has(digest)}
    layers: set[str] = set()
    for item in index.manifests:
        if store.has(item.digest) and store.blob_path(item.digest).stat().st_mtime >= young:
            (stacks if item.artifactType == STACK_TYPE else layers).add(id_of(store, item))
    for digest in stacks:
        layers |= {entry.layer for entry in read_stack(store, digest).layers}
    return stacks | layers


def _blobs_of(store: Store, index: Index, reached: set[str]) -> set[str]:
    """Return the digests of all blobs that the reached layers and stacks, and their manifests, are made of."""
    items = [item for item in index.manifests if id_of(store, item) in reached]
    kept = reached | {item.digest for item in items}
    for item in items:
        kept |= {blob["digest"] for blob in json.loads(store.read_bytes(item.digest))["layers"]}
        if item.artifactType == LAYER_TYPE:
            kept |= set(layer_blobs(store, id_of(store, item)))
    return kept


def _titles(store: Store, entries: list[Descriptor], kind: str) -> Iterator[tuple[str, str]]:
    seen = {id_of(store, item): item.annotations.get(TITLE_KEY, "") for item in entries if item.artifactType == kind}
    return ((title, digest) for digest, title in seen.items())


def _cut_log(store: Store, name: str, digest: str) -> None:
    last = history(store, name)[:1]
    path: Path = store.root / "logs" / name
    if last:
        line = {"old": "", "new": digest, "when": last[0].when, "why": last[0].why}
        write_atomically(path, json.dumps(line, sort_keys=True).encode() + b"\n")
