"""The store looked through: every digest recomputed, every name followed, refs and index mended from what is whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from pydantic import ValidationError

from lamina.errors import StackError, UsageError
from lamina.refs import Digest
from lamina.stack.layers import id_of, name_of, read_layer, read_stack, write_layer, write_stack
from lamina.stack.lineage import MAIN, get_head, get_ref, history, list_refs, list_tags, set_head, set_ref
from lamina.stack.manifest import LAYER_TYPE, STACK_TYPE, Index, Manifest
from lamina.stack.store import Store

__all__ = ["Finding", "check_store", "store_size"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was wrong: where, what, and whether it has been mended."""

    where: str
    what: str
    mended: bool


def store_size(store: Store) -> int:
    """Return the size of all blobs in bytes."""
    return sum(path.stat().st_size for path in (store.root / "blobs" / "sha256").iterdir())


def check_store(store: Store, tick: Callable[[float], None] = lambda amount: None) -> list[Finding]:
    """Return all that is wrong with the store, after mending what can be mended without guessing.

    A damaged index is written anew from the manifests among the blobs and the logs of the refs. A ref whose stack is
    not whole goes back to the last whole one that it held. Damaged blobs stay where they are: the next pull or run
    that brings their content replaces them.

    Args:
        store: the store.
        tick: called with the number of bytes read.

    Raises:
        StackError: if another lamina holds the lock.
    """
    findings = list(_check_blobs(store, tick))
    broken = {finding.where for finding in findings}
    findings += _mend_index(store)
    findings += _check_index(store, broken)
    findings += _mend_refs(store, broken)
    return findings


def _check_blobs(store: Store, tick: Callable[[float], None]) -> Iterator[Finding]:
    for path in sorted((store.root / "blobs" / "sha256").iterdir()):
        if path.name.startswith("."):
            continue  # a scratch file; `gc` removes those of the dead
        try:
            size, found = path.stat().st_size, Digest.of_file(path).hex
        except OSError as error:
            yield Finding(f"sha256:{path.name}", f"cannot be read: {error.strerror}", mended=False)
            continue
        if found != path.name:
            yield Finding(f"sha256:{path.name}", f"its {size:,} bytes have another digest", mended=False)
        tick(size)


def _mend_index(store: Store) -> Iterator[Finding]:
    try:
        store.read_index()
    except StackError:
        with store.lock():
            store.write_index(Index())
        stacks = list(_blobs_of(store, STACK_TYPE))
        for digest in (*_blobs_of(store, LAYER_TYPE), *stacks):
            _list_again(store, digest)
        for name, digest in _refs_from_logs(store):
            with suppress(StackError, UsageError):
                set_ref(store, name, digest, why="fsck: index written anew")
        names = ", ".join(list_refs(store)) or "no refs"
        yield Finding("index.json", f"missing or damaged; written anew with {names} (tags came back as branches)", True)


def _blobs_of(store: Store, kind: str) -> Iterator[str]:
    """Yield the configs of all layers or stacks whose manifests are among the blobs."""
    for path in sorted((store.root / "blobs" / "sha256").iterdir()):
        with path.open("rb") as stream:
            if stream.read(1) != b"{":
                continue
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValidationError:
            continue
        if manifest.artifactType == kind:
            yield manifest.config.digest


def _refs_from_logs(store: Store) -> Iterator[tuple[str, str]]:
    logs = store.root / "logs"
    for path in sorted(logs.iterdir()) if logs.exists() else ():
        for line in reversed(path.read_bytes().splitlines()):
            try:
                yield path.name, json.loads(line)["new"]
            except (ValueError, KeyError, TypeError):
                continue
            break


def _check_index(store: Store, broken: set[str]) -> Iterator[Finding]:
    for item in store.read_index().manifests:
        digest = id_of(store, item)
        if digest in broken:
            continue
        if item.digest in broken or not store.has(item.digest):
            mended = _list_again(store, digest)
            yield Finding(item.digest, f"the manifest of {digest[7:19]} is missing or damaged", mended)


def _mend_refs(store: Store, broken: set[str]) -> Iterator[Finding]:
    for name, digest in list_refs(store).items():
        problem = _problem_of(store, digest, broken)
        if problem is None:
            continue
        if name in list_tags(store):
            yield Finding(name, f"the tagged stack {digest[7:19]} is not whole: {problem}", mended=False)
            continue
        held = [move.old for move in history(store, name) if move.old]
        whole = next((old for old in held if store.has(old) and _problem_of(store, old, broken) is None), None)
        if whole is None:
            yield Finding(name, f"its stack {digest[7:19]} is not whole: {problem}", mended=False)
            continue
        set_ref(store, name, whole, why=f"fsck: {digest[7:19]} is not whole", expect=digest)
        back = name_of(read_stack(store, whole))
        yield Finding(name, f"its stack {digest[7:19]} is not whole ({problem}); set back to {back}", mended=True)
    if get_ref(store, get_head(store)) is None and get_ref(store, MAIN) is not None:
        yield Finding("HEAD", f"names no branch ('{get_head(store)}'); now {MAIN}", mended=True)
        set_head(store, MAIN)


def _problem_of(store: Store, digest: str, broken: set[str]) -> str | None:
    """Return why the stack cannot be loaded; sampled and held-out rows may be missing, since they stay at home."""
    try:
        for entry in read_stack(store, digest).layers:
            layer = read_layer(store, entry.layer)
            for what, blob in (("weights", layer.weights), ("row list", layer.rows)):
                if blob in broken or not store.has(blob):
                    return f"the {what} of layer {layer.name} are missing or damaged"
    except StackError as error:
        return error.message
    return None


def _list_again(store: Store, digest: str) -> bool:
    """Write the manifest of a layer or stack again from its config; return whether that was possible."""
    with suppress(StackError):
        write_layer(store, read_layer(store, digest))
        return True
    with suppress(StackError):
        write_stack(store, read_stack(store, digest))
        return True
    return False
