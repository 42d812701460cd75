"""A layer made out of layers: what it inherits from them when it is squashed or merged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from lamina.data.identity import row_identity
from lamina.errors import StackError
from lamina.lora.adapter import Adapter, check_values, put_adapter
from lamina.ops.project import Project
from lamina.ops.rows import rows_as_jsonl, stored_rows, superseded
from lamina.ops.run import made_here
from lamina.records import Conversation
from lamina.stack.layers import read_layer, stack_digest, write_layer
from lamina.stack.manifest import (
    DATASET_TYPE,
    ROWS_TYPE,
    Cost,
    DataSource,
    LayerConfig,
    Origin,
    StackConfig,
    StackEntry,
)
from lamina.stack.seen import SeenRow, format_seen, read_seen

__all__ = ["JOINED", "unite"]

SQUASH = "squash"
# Methods whose layers carry the cost of what they were made of.
JOINED = (SQUASH, "merge")


def unite(
    project: Project,
    adapter: Adapter,
    *,
    name: str,
    parent: StackConfig,
    origin: Origin,
    losses: tuple[float | None, float | None],
) -> str:
    """Write a layer made out of ``origin.layers`` and return its digest.

    It inherits their rows, samples and held-out rows, each once, and their cost: what it took to have it. Rows that
    are not on this machine cannot be inherited.

    Args:
        project: the open project.
        adapter: its weights.
        name: its name.
        parent: the stack it belongs on.
        origin: how it was made.
        losses: held-out loss under the parent, and with the layer on it; None where nothing was held out.

    Raises:
        StackError: if the weights hold values that no layer may hold.
    """
    _check_weights(name, adapter)
    store = project.store
    layers = [read_layer(store, digest) for digest in origin.layers]
    # Layers that lay on one another answer anew what those below answered; layers trained apart do not.
    replaced: Collection[str] = superseded(project, _pile(project, origin)) if origin.method == SQUASH else ()
    data = _once([source for layer in layers for source in layer.data])
    rows = store.put_bytes(format_seen(_joined_lists(project, layers, data)), ROWS_TYPE)
    config = LayerConfig(
        name=name,
        base=project.base.pin,
        parent=stack_digest(parent),
        weights=put_adapter(store, adapter),
        rank=max(factors.rank for factors in adapter.values()),
        modules=tuple(adapter),
        recipe={},
        recipe_origins={},
        data=data,
        rows=rows.digest,
        replay=_joined(project, layers, replaced, lambda layer: layer.replay),
        heldout=_joined(project, layers, replaced, lambda layer: layer.heldout),
        cost=Cost.total([layer.cost for layer in layers]),
        heldout_loss_before=losses[0],
        heldout_loss_after=losses[1],
        origin=origin,
        licence=_licence(layers),
        **made_here(),
    )
    return write_layer(store, config)


def _pile(project: Project, origin: Origin) -> StackConfig:
    entries = tuple(StackEntry(layer=layer, name=read_layer(project.store, layer).name) for layer in origin.layers)
    return StackConfig(base=project.base.pin, layers=entries)


def _check_weights(name: str, adapter: Adapter) -> None:
    try:
        for path, factors in adapter.items():
            check_values(Path(name), f"{path} A", factors.A)
            check_values(Path(name), f"{path} B", factors.B)
    except StackError as error:
        raise StackError(error.message, hint="lower the scales of the layers that go in") from error


def _joined(
    project: Project,
    layers: Sequence[LayerConfig],
    replaced: Collection[str],
    blob_of: Callable[[LayerConfig], str | None],
) -> str | None:
    rows: dict[str, Conversation] = {}
    for layer in layers:
        rows |= {row_identity(row): row for row in stored_rows(project.store, blob_of(layer))}
    rows = {identity: row for identity, row in rows.items() if identity not in replaced}
    return project.store.put_bytes(rows_as_jsonl(list(rows.values())), DATASET_TYPE).digest if rows else None


def _joined_lists(project: Project, layers: Sequence[LayerConfig], data: Sequence[DataSource]) -> Collection[SeenRow]:
    """Return the rows that ``layers`` have seen, each once, their files counted in ``data``."""
    found: dict[str, SeenRow] = {}
    for layer in layers:
        places = [data.index(source) for source in layer.data]
        for seen in read_seen(project.store, layer):
            at = None if seen.file is None or seen.file >= len(places) else places[seen.file]
            found.setdefault(seen.row, dataclasses.replace(seen, file=at))
    return found.values()


def _once(sources: Sequence[DataSource]) -> tuple[DataSource, ...]:
    return tuple({(source.file, source.digest): source for source in sources}.values())


def _licence(layers: Sequence[LayerConfig]) -> str | None:
    """Return the licences as an SPDX expression: who takes the new layer is bound by all of them."""
    named = sorted({layer.licence for layer in layers if layer.licence is not None})
    return " AND ".join(named) or None
