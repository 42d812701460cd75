"""``lamina push``: a stack into a registry, whole, so that one pull brings it back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lamina.errors import StackError, UsageError
from lamina.records import Progress
from lamina.share.meter import byte_stage
from lamina.share.places import note_places, read_places
from lamina.share.reference import Reference
from lamina.share.registry import Registry
from lamina.share.upload import upload_blob
from lamina.stack.layers import pack_stack, read_layer
from lamina.stack.manifest import STACK_TYPE, Manifest, StackConfig
from lamina.stack.order import check_parents
from lamina.stack.resolve import resolve_here
from lamina.stack.store import Store

__all__ = ["Pushed", "push"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did.

    Attributes:
        reference: where the stack is now.
        stack: what was pushed.
        digest: of the manifest.
        sent_bytes: size of the blobs that the registry lacked.
        sent: how many those were.
        present: how many were there, or in another of its repositories.
        left_out: how many blobs of the owner's rows stayed at home.
    """

    reference: Reference
    stack: StackConfig
    digest: str
    sent_bytes: int
    sent: int
    present: int
    left_out: int


def push(
    start: Path,
    expression: str | None,
    target: str,
    *,
    progress: Progress,
    with_data: bool = False,
    plain_http: bool = False,
) -> Pushed:
    """Send a stack to ``target``: the blobs that the registry lacks, then the manifest, which makes it visible.

    Args:
        start: a folder in the project.
        expression: which stack; None means the current branch.
        target: ``REGISTRY/NAME:TAG``.
        progress: is told how it goes.
        with_data: send sampled and held-out rows along.
        plain_http: without TLS, as on loopback.

    Raises:
        UsageError: if ``target`` cannot be read, or names a digest.
        StackError: if there is no such stack, a layer lies on a wrong parent, or the registry refuses.
        MachineError: if the registry cannot be reached.
    """
    reference = Reference.parse(target)
    if reference.is_pinned:
        raise UsageError(f"'{target}' names a digest, which no push can choose", hint="name a tag instead: NAME:TAG")
    store = Store.find(start)
    stack = resolve_here(store, expression)
    _check(store, stack)
    store.put_bytes(stack.canonical(), STACK_TYPE)  # a stack typed as a sum has never been written
    manifest = pack_stack(store, stack, with_data=with_data)
    registry = Registry(reference, plain_http=plain_http)
    sent, sent_bytes = _send_blobs(store, registry, manifest, progress)
    registry.write_manifest(manifest.canonical(), manifest.mediaType)
    digests = [item.digest for item in (manifest.config, *manifest.layers)]
    note_places(store, reference, digests)
    private = {digest for entry in stack.layers for digest in _private(store, entry.layer)}
    return Pushed(
        reference=reference,
        stack=stack,
        digest=manifest.digest,
        sent_bytes=sent_bytes,
        sent=sent,
        present=len(digests) - sent,
        left_out=len(private - set(digests)),
    )


def _send_blobs(store: Store, registry: Registry, manifest: Manifest, progress: Progress) -> tuple[int, int]:
    """Send what the registry lacks, and return how many blobs and bytes that were."""
    with registry.reaching():
        missing = [item for item in (*manifest.layers, manifest.config) if not registry.has_blob(item.digest)]
    if not missing:
        return 0, 0
    sources = read_places(store, registry.reference)
    sent = []
    with registry.reaching(), byte_stage(progress, "push", sum(item.size for item in missing)) as tick:
        for item in missing:
            path, source = store.blob_path(item.digest), sources.get(item.digest)
            if upload_blob(registry, item, path, tick, source=source):
                sent.append(item.size)
    return len(sent), sum(sent)


def _check(store: Store, stack: StackConfig) -> None:
    try:
        check_parents(store, stack, stack.base)
    except StackError as error:
        raise StackError(
            error.message, hint="push a ref; `lamina drop` and `lamina reorder` mark the layers that they move"
        ) from error


def _private(store: Store, layer: str) -> list[str]:
    config = read_layer(store, layer)
    return [digest for digest in (config.replay, config.heldout) if digest is not None and store.has(digest)]
