"""Where rows have left their traces: the layers that saw or may have rehearsed them, and what still reaches those."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from lamina.ops.rows import identities, stored_rows
from lamina.stack.layers import list_layers, read_layer, read_stack
from lamina.stack.lineage import history, list_refs, list_tags
from lamina.stack.manifest import LayerConfig
from lamina.stack.seen import read_seen
from lamina.stack.store import Store

__all__ = ["Holders", "Trace", "find_holders", "find_trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What a layer has of certain rows.

    Attributes:
        seen: how many of them it was trained on, or measured by while it was trained.
        rehearsed: whether some of them may have been replayed in its training.
        is_itself: whether it is a layer that must go whole.
    """

    seen: int
    rehearsed: bool = False
    is_itself: bool = False

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.seen or self.rehearsed or self.is_itself)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holders:
    """What still holds rows: names of branches and tags, of branches in whose past they are, and layers beside those.

    Attributes:
        branches: branches whose stack has such a layer.
        tags: tags whose stack has one.
        pasts: refs that held such a stack before, so that undo could bring it back.
        layers: digests of all such layers in the store.
    """

    branches: tuple[str, ...]
    tags: tuple[str, ...]
    pasts: tuple[str, ...]
    layers: tuple[str, ...]


def find_trace(
    store: Store, digest: str, rows: Collection[str], *, whole: Collection[str] = (), below: Sequence[str] = ()
) -> Trace:
    """Return what a layer has of ``rows``.

    Which rows a training replayed is not recorded, so any layer that replayed counts as soon as one of the layers it
    was trained on top of carried one of the rows in its sample, or left it open what stood in for a sample.

    Args:
        store: the store.
        digest: the layer.
        rows: identities of the rows.
        whole: layers that must go whole, whatever they list.
        below: layers that lie below it now, besides those of its recorded parent.
    """
    layer = read_layer(store, digest)
    seen = len({one.row for one in read_seen(store, layer)} & set(rows))
    parents = dict.fromkeys([*below, *_parents(store, layer)])
    rehearsed = _may_rehearse(layer) and any(
        _lends(store, parent, rows, whole, by_writing=bool(layer.stood_in)) for parent in parents
    )
    return Trace(seen=seen, rehearsed=rehearsed, is_itself=digest in whole)


def find_holders(store: Store, rows: Collection[str], whole: Collection[str] = ()) -> Holders:
    """Return what in the store still holds ``rows``, or layers that must go whole."""
    held = {digest for digest, _ in list_layers(store) if find_trace(store, digest, rows, whole=whole)}
    refs, tags = list_refs(store), list_tags(store)
    now = {name for name, stack in refs.items() if _has_layer(store, stack, held)}
    pasts = [
        name for name in refs if any(move.old and _has_layer(store, move.old, held) for move in history(store, name))
    ]
    return Holders(
        branches=tuple(sorted(now - tags)),
        tags=tuple(sorted(now & tags)),
        pasts=tuple(sorted(pasts)),
        layers=tuple(sorted(held)),
    )


def _may_rehearse(layer: LayerConfig) -> bool:
    """Return whether rows of layers below may have gone into this one."""
    if layer.origin is not None:  # made of others, which says nothing of replay; or trained elsewhere
        return layer.origin.method != "import"
    return bool(layer.recipe.get("replay", 1.0))


def _parents(store: Store, layer: LayerConfig) -> list[str]:
    if not store.has(layer.parent):
        return []
    return [entry.layer for entry in read_stack(store, layer.parent).layers]


def _lends(store: Store, digest: str, rows: Collection[str], whole: Collection[str], *, by_writing: bool) -> bool:
    """Return whether a later layer may have had some of the rows from this one.

    A sample lends the rows that it holds. Where the stack wrote rows for a training (``by_writing``), any row that one
    of its layers has seen may be among them.
    """
    if not store.has(digest):
        return False  # removed already, and what it lent then cannot be told; docs/design/updating.md
    layer = read_layer(store, digest)
    if digest in whole:
        return True
    if not {one.row for one in read_seen(store, layer)} & set(rows):
        return False
    if by_writing or layer.replay is None or not store.has(layer.replay):
        return True
    return not set(rows).isdisjoint(identities(stored_rows(store, layer.replay)))


def _has_layer(store: Store, stack: str, layers: Collection[str]) -> bool:
    return store.has(stack) and any(entry.layer in layers for entry in read_stack(store, stack).layers)
