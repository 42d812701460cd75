"""``lamina log`` and ``lamina show``: what the store knows, without loading a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lamina.errors import StackError
from lamina.ops.results import effect
from lamina.records import Score
from lamina.stack.layers import read_layer, read_stack
from lamina.stack.lineage import RefMove, get_head, get_ref, history, list_refs
from lamina.stack.manifest import LayerConfig, StackConfig, StackEntry
from lamina.stack.resolve import resolve
from lamina.stack.store import Store

__all__ = ["Lineage", "read_lineage", "read_one_layer"]


@dataclass(frozen=True, slots=True)
class Lineage:
    """A stack, its layers bottom first with what each did, the refs, and how the named ref came here.

    ``effects`` holds, for each layer, the scores without and with it by suite, as far as they have been measured.
    """

    stack: StackConfig
    layers: tuple[tuple[StackEntry, LayerConfig], ...]
    effects: tuple[dict[str, tuple[Score, Score]], ...]
    refs: dict[str, str]
    moves: tuple[RefMove, ...]


def read_lineage(start: Path, expression: str | None) -> Lineage:
    """Return the lineage of a stack.

    Raises:
        StackError: if there is no project or no such stack.
    """
    store = Store.find(start)
    stack = _resolve(store, expression)
    layers = tuple((entry, read_layer(store, entry.layer)) for entry in stack.layers)
    prefixes = [stack.model_copy(update={"layers": stack.layers[: height + 1]}) for height in range(len(layers))]
    effects = tuple(effect(store, prefix) for prefix in prefixes)
    refs = list_refs(store)
    named = expression or get_head(store)
    return Lineage(stack, layers, effects, refs, tuple(history(store, named)) if named in refs else ())


def read_one_layer(start: Path, name: str) -> tuple[str, LayerConfig]:
    """Return the layer with this name or digest prefix, and its digest.

    Raises:
        StackError: if there is none.
    """
    store = Store.find(start)
    entry = _resolve(store, f"base+{name}").layers[-1]
    return entry.layer, read_layer(store, entry.layer)


def _resolve(store: Store, expression: str | None) -> StackConfig:
    branch = get_head(store)
    held = get_ref(store, branch)
    if held is None:
        raise StackError(f"{store.root}: the branch '{branch}' is missing", hint="`lamina fsck` repairs refs")
    return resolve(store, expression or branch, read_stack(store, held).base)
