"""``lamina log --cost``: what a stack took, everything counted, beside a full retraining at each of its points."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.config import CONFIG_NAME, CostSettings, load_settings
from lamina.ops.ledger import STEPS, Entry, read_ledger, total
from lamina.stack.layers import read_layer
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.resolve import resolve_here
from lamina.stack.store import Store

__all__ = ["Bill", "Line", "bill_of", "read_bill"]


@dataclass(frozen=True, slots=True)
class Line:
    """A point of the stack: its top layer, what that took by step, and what retraining everything there would take.

    Attributes:
        layer: the layer's name.
        steps: what each step took, training first; all that the ledger holds under the layer's name.
        spent: their sum.
        retrained: one joint run on all rows seen up to here; training alone, without the gate or any other step.
    """

    layer: str
    steps: tuple[Entry, ...]
    spent: Entry
    retrained: Entry

    @property
    def share(self) -> float | None:
        """What was spent here, as a share of the retraining; by operations, by tokens where those are not known."""
        ours, theirs = (self.spent.flops, self.retrained.flops)
        if not theirs:
            ours, theirs = self.spent.tokens, self.retrained.tokens
        return ours / theirs if theirs else None


@dataclass(frozen=True, slots=True)
class Bill:
    """What a stack took.

    Attributes:
        lines: its points, bottom first.
        base: what measuring the bare base took.
        rest: what went to layers of other names: refused ones, other branches, what was dropped.
        spent: all of it.
        retrained: the sum of the retrainings at every point.
        currency: of the estimates of money.
    """

    lines: tuple[Line, ...]
    base: Entry
    rest: Entry
    spent: Entry
    retrained: Entry
    currency: str


def read_bill(start: Path, expression: str | None) -> Bill:
    """Return the bill of a stack; None means the current branch.

    Raises:
        StackError: if there is no project or no such stack, or the ledger is damaged.
    """
    store = Store.find(start)
    return bill_of(store, resolve_here(store, expression), load_settings(store.project / CONFIG_NAME).cost)


def bill_of(store: Store, stack: StackConfig, costs: CostSettings) -> Bill:
    """Return the bill of ``stack`` from the ledger and its layers' own records.

    A layer without training in the ledger (pulled, imported, or older than the ledger) counts with its recorded cost.
    Retraining at point k goes over ``sum_{i<=k} T_i / (1 + r_i)`` tokens, T_i being those that went backward in layer
    i's last training, in all its passes, and r_i the share of replayed ones, which a joint run does not need. A token
    of it takes what one of the stack's own trainings took on average, in operations, seconds, energy and money; what
    those took for tokens that only went forward (held-out rows, the search for a scale, rows of its own) is taken off.
    """
    entries = read_ledger(store)
    layers = [read_layer(store, entry.layer) for entry in stack.layers]
    owned = [_named_like(store, layer, entries) for layer in layers]
    trainings = [_training(layer, own, costs) for layer, own in zip(layers, owned, strict=True)]
    rate = total(_both_ways(each) for each in [known for known in trainings if known.flops] or trainings)
    lines, seen = [], 0.0
    for place, (layer, training, own) in enumerate(zip(layers, trainings, owned, strict=True)):
        seen += _last_run(training, own) / (1 + _replayed(layer, is_first=place == 0))
        others = [each for each in own if each.step != "train"]
        steps = [training, *(total(_of(others, step), step, layer.name) for step in STEPS if _of(others, step))]
        retrained = _scaled(rate, seen / rate.trained if rate.trained else 0.0)
        lines.append(Line(layer.name, tuple(steps), total(steps, layer=layer.name), retrained))
    named = {each.layer for own in owned for each in own}
    base = total(each for each in entries if not each.layer)
    rest = total(each for each in entries if each.layer and each.layer not in named)
    spent = total([*(line.spent for line in lines), base, rest])
    return Bill(tuple(lines), base, rest, spent, total(line.retrained for line in lines), costs.currency)


def _named_like(store: Store, layer: LayerConfig, entries: Sequence[Entry]) -> list[Entry]:
    """Return the entries under a layer's name, and under those of the layers that it was made of."""
    sources = () if layer.origin is None else layer.origin.layers
    names = {layer.name, *(read_layer(store, source).name for source in sources if store.has(source))}
    return [entry for entry in entries if entry.layer in names]


def _of(entries: Sequence[Entry], step: str) -> list[Entry]:
    return [entry for entry in entries if entry.step == step]


def _training(layer: LayerConfig, entries: Sequence[Entry], costs: CostSettings) -> Entry:
    """Return what training the layer took: the ledger's entries of that name, else what the layer records."""
    known = [entry for entry in entries if entry.step == "train" and entry.trained]
    if known:
        return total(known, "train", layer.name)
    hours = layer.cost.seconds / 3600
    return Entry(
        step="train",
        layer=layer.name,
        tokens=layer.cost.tokens,
        trained=layer.cost.tokens,
        seconds=layer.cost.seconds,
        watt_hours=costs.watts * hours,
        money=costs.price_kwh * costs.watts * hours / 1000 + costs.price_hour * hours,
    )


def _last_run(training: Entry, entries: Sequence[Entry]) -> int:
    """Return the tokens of the run that gave the layer: of each name the last. Runs that were refused gave none."""
    last = {entry.layer: entry.trained for entry in entries if entry.step == "train" and entry.trained}
    return sum(last.values()) or training.trained


def _replayed(layer: LayerConfig, *, is_first: bool) -> float:
    """Return how many tokens were replayed for each of the layer's own; of older layers, as far as the recipe tells."""
    if layer.mixed_in is not None:
        return layer.mixed_in
    replay = 0.0 if is_first else float(layer.recipe.get("replay", 0.0))
    return replay + float(layer.recipe.get("anchors", 0.0))


def _both_ways(training: Entry) -> Entry:
    """Return the part of a training that went to tokens which also went backward; they take twice what others do."""
    weight = 2 * training.trained
    share = weight / (weight + training.tokens - training.trained) if weight else 0.0
    return dataclasses.replace(_scaled(training, share), trained=training.trained)


def _scaled(entry: Entry, factor: float) -> Entry:
    """Return what ``factor`` of a training took; its tokens are those that went backward."""
    return Entry(
        step="train",
        tokens=round(entry.trained * factor),
        trained=round(entry.trained * factor),
        flops=entry.flops * factor,
        seconds=entry.seconds * factor,
        watt_hours=entry.watt_hours * factor,
        money=entry.money * factor,
    )
