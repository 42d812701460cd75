"""``lamina log`` and ``lamina show``: what the store knows, without loading a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lamina.config import CONFIG_NAME, CostSettings, load_settings
from lamina.errors import LaminaError
from lamina.ops.results import effect
from lamina.records import Score
from lamina.stack.difference import diff_stacks
from lamina.stack.layers import list_layers, read_layer, read_stack, stack_digest
from lamina.stack.lineage import OVERRULED, RefMove, get_current, get_head, history, list_refs, list_tags
from lamina.stack.manifest import LayerConfig, StackConfig, StackEntry
from lamina.stack.resolve import resolve_here, resolve_layer
from lamina.stack.store import Store

__all__ = [
    "Effect",
    "Lineage",
    "LogRow",
    "Spent",
    "Tree",
    "name_refs",
    "read_lineage",
    "read_named",
    "read_tree",
    "spent_on",
]

Effect = dict[str, tuple[Score, Score]]


@dataclass(frozen=True, slots=True)
class Spent:
    """What training took. Energy and money are estimates from the seconds and ``[cost]`` in ``lamina.toml``."""

    tokens: int
    seconds: float
    watt_hours: float
    money: float

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.tokens + other.tokens,
            self.seconds + other.seconds,
            self.watt_hours + other.watt_hours,
            self.money + other.money,
        )


@dataclass(frozen=True, slots=True)
class LogRow:
    """One layer in its place.

    Attributes:
        graph: the strokes that connect it to its neighbours, drawn with the newest on top.
        refs: the refs that hold the stack which ends with this layer.
        effect: scores without and with it by suite, as far as they have been measured.
        moved: how the stack below it differs from the one it was trained on, where it does.
        overruled: what the gate had against it, where it was let in all the same.
    """

    graph: str
    entry: StackEntry
    layer: LayerConfig
    spent: Spent
    effect: Effect
    refs: tuple[str, ...]
    moved: str | None
    overruled: str = ""


@dataclass(frozen=True, slots=True)
class _Look:
    """What every row is made with. ``overruled``: stacks that came in against the gate; ``scores``: those read."""

    store: Store
    costs: CostSettings
    refs: dict[str, str]
    overruled: dict[str, str]
    scores: dict[Path, Score | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lineage:
    """A stack with its layers bottom first, the refs (``base_refs`` hold the bare base), and how the ref came here."""

    stack: StackConfig
    rows: tuple[LogRow, ...]
    base_refs: tuple[str, ...]
    branch: str
    refs: dict[str, str]
    tags: frozenset[str]
    moves: tuple[RefMove, ...]
    currency: str


def read_lineage(start: Path, expression: str | None) -> Lineage:
    """Return the lineage of a stack; None means the current branch.

    Raises:
        StackError: if there is no project or no such stack.
    """
    store = Store.find(start)
    stack, named = resolve_here(store, expression), expression or get_head(store)
    costs, refs = _costs(store), list_refs(store)
    moves = tuple(history(store, named)) if named in refs else ()
    look = _Look(store, costs, refs, {move.new: move.why for move in moves if OVERRULED in move.why})
    rows = tuple(_row(look, stack.prefix(top + 1)) for top in range(len(stack.layers)))
    return Lineage(
        stack=stack,
        rows=rows,
        base_refs=_holders(stack_digest(stack.prefix(0)), refs),
        branch=get_head(store),
        refs=refs,
        tags=frozenset(list_tags(store)),
        moves=moves,
        currency=costs.currency,
    )


@dataclass(frozen=True, slots=True)
class Tree:
    """The stacks of all refs, newest layer on top: a row for each layer, shared ones once, and lines of text between.

    ``candidates`` are the layers, with their digests, that no ref's stack holds.
    """

    lines: tuple[LogRow | str, ...]
    candidates: tuple[tuple[str, LayerConfig], ...]
    currency: str


def read_tree(start: Path) -> Tree:
    """Return what ``lamina log --all`` draws.

    Raises:
        StackError: if there is no project.
    """
    store = Store.find(start)
    costs, refs = _costs(store), list_refs(store)
    branch, _ = get_current(store)
    names = sorted(refs, key=lambda name: (name != branch, name))
    moves = [move for name in names for move in history(store, name)]
    look = _Look(store, costs, refs, {move.new: move.why for move in moves if OVERRULED in move.why})
    stacks = [read_stack(store, refs[name]) for name in names]
    drawn: list[LogRow | str] = []
    for base in dict.fromkeys(stack.base for stack in stacks):
        drawn += _draw(look, [stack for stack in stacks if stack.base == base], 0)
        bare = StackConfig(base=base, layers=())
        drawn.append(
            " ".join(["○", f"{base.name} {base.digest[7:15]} (base)", *name_refs(_holders(stack_digest(bare), refs))])
        )
    used = {entry.layer for stack in stacks for entry in stack.layers}
    unused = tuple((digest, layer) for digest, layer in list_layers(store) if digest not in used)
    return Tree(tuple(drawn), unused, costs.currency)


def read_named(start: Path, name: str) -> tuple[str, LayerConfig | StackConfig]:
    """Return the layer with this name or digest prefix, else the stack that it means, and the digest.

    Raises:
        StackError: if there is neither.
    """
    store = Store.find(start)
    try:
        entry = resolve_layer(store, name)
    except LaminaError as no_layer:
        try:
            stack = resolve_here(store, name)
        except LaminaError:
            raise no_layer from None
        return stack_digest(stack), stack
    return entry.layer, read_layer(store, entry.layer)


def name_refs(refs: Sequence[str]) -> list[str]:
    """Return the refs as they are written behind a stack's top layer."""
    return [f"({', '.join(refs)})"] if refs else []


def _draw(look: _Look, stacks: Sequence[StackConfig], height: int) -> list[LogRow | str]:
    """Return the drawing of the layers above ``height``, up to which the stacks are alike; the first stands left."""
    lines: list[LogRow | str] = []
    branches: dict[StackEntry, list[StackConfig]] = {}
    for stack in stacks:
        if len(stack.layers) > height:
            branches.setdefault(stack.layers[height], []).append(stack)
    for column, group in enumerate(branches.values()):
        above = _draw(look, group, height + 1)
        above.append(_row(look, group[0].prefix(height + 1)))
        if column:
            above = [_shift(line) for line in above]
            above.append("├─╯")
        lines += above
    return lines


def _shift(line: LogRow | str) -> LogRow | str:
    if isinstance(line, str):
        return f"│ {line}"
    return dataclasses.replace(line, graph=f"│ {line.graph}")


def _row(look: _Look, stack: StackConfig) -> LogRow:
    """Return the row of the stack's top layer."""
    store, entry = look.store, stack.layers[-1]
    below, here = stack_digest(stack.prefix(-1)), stack_digest(stack)
    layer = read_layer(store, entry.layer)
    return LogRow(
        "●",
        entry,
        layer,
        spent_on(layer, look.costs),
        effect(store, below, here, look.scores),
        _holders(here, look.refs),
        _how_moved(store, layer, stack.prefix(-1)) if entry.moved else None,
        look.overruled.get(here, "").partition(f"{OVERRULED} ")[2],
    )


def _how_moved(store: Store, layer: LayerConfig, below: StackConfig) -> str:
    if not store.has(layer.parent):
        return f"trained on {layer.parent[7:19]}"
    change = diff_stacks(read_stack(store, layer.parent), below)
    if change.bases:
        return f"trained on {change.bases[0].name}"
    parts = [
        f"{word} {', '.join(entry.name for entry in entries)}"
        for word, entries in (("without", change.removed), ("over", change.added))
        if entries
    ]
    parts += [f"{item.entry.name} at {item.new:g}" for item in change.rescaled]
    return ", ".join([*parts, *(["in another order"] if change.moved else [])]) or "over layers that were moved"


def _holders(digest: str, refs: dict[str, str]) -> tuple[str, ...]:
    return tuple(name for name, held in refs.items() if held == digest)


def spent_on(layer: LayerConfig, costs: CostSettings) -> Spent:
    """Return what training ``layer`` took."""
    hours = layer.cost.seconds / 3600
    watt_hours = costs.watts * hours
    money = costs.price_kwh * watt_hours / 1000 + costs.price_hour * hours
    return Spent(layer.cost.tokens, layer.cost.seconds, watt_hours, money)


def _costs(store: Store) -> CostSettings:
    return load_settings(store.project / CONFIG_NAME).cost
