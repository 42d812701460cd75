"""``lamina merge``: layers trained apart on the same parent become one, weighed by how well it does on dev rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lamina.errors import StackError, UsageError
from lamina.lora.adapter import Adapter
from lamina.merge.layers import METHODS
from lamina.ops.admit import Admission, Place, admit, find_place
from lamina.ops.project import Project
from lamina.ops.rows import heldout_sample, render_rows
from lamina.ops.spending import spending
from lamina.ops.unite import unite
from lamina.ops.weigh import Objective, Weighed, own_rows, suite_score, weigh
from lamina.stack.layers import name_of, read_layer, read_stack
from lamina.stack.manifest import LayerConfig, Origin, StackConfig, StackEntry
from lamina.stack.resolve import resolve_layer
from lamina.train.passes import mean_loss

__all__ = ["MergeResult", "merge"]

_ROWS_PER_LAYER = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What merging gave: what became of the layer, how its parts were weighed, and what was made small."""

    admission: Admission
    method: str
    weighed: Weighed
    objective: str


def merge(
    project: Project,
    names: Sequence[str],
    *,
    name: str,
    method: str = "concat",
    dev: str | None = None,
    guards: Sequence[str] = (),
    accept: bool = False,
) -> MergeResult:
    """Merge layers that were trained apart and let the result into the current branch through the gate.

    ``concat`` gives each layer a scalar of its own, the other methods one to the merged whole; all are searched on the
    layers' own held-out rows, or on a suite. The result goes onto the layers' parent: the branch must hold that, alone
    or with one of the layers on it, which the result then stands in for.

    Args:
        project: the open project.
        names: the layers, by name or digest prefix, at least two.
        name: the new layer's.
        method: one of ``lamina.merge.layers.METHODS``.
        dev: a suite whose score is made large; None means the layers' held-out rows.
        guards: suites that must not get worse, besides those marked ``guard``.
        accept: let the layer in whatever the gate says.

    Raises:
        UsageError: if the method or a suite is unknown, or fewer than two layers are named.
        StackError: if the layers were not trained on the same parent, or the branch holds something else.
    """
    if method not in METHODS:
        raise UsageError(f"--method {method}: expected one of {', '.join(METHODS)}", hint="--method concat")
    entries = _find_entries(project, names)
    layers = [read_layer(project.store, entry.layer) for entry in entries]
    parent = _common_parent(project, layers)
    place = _find_place(project, entries, parent, name, guards)
    adapters = project.adapters(entries)
    with spending(project, "weigh", name, parent):
        objective = suite_score(project, dev) if dev else own_rows(project, parent, layers, adapters)
        weighed = weigh(project, parent, adapters, method, objective)
    digests = tuple(entry.layer for entry in entries)
    scales = weighed.scales if method == "concat" else weighed.scales * len(entries)
    origin = Origin(method="merge", layers=digests, scales=scales, notes=_notes(method, weighed, objective))
    losses = _heldout_losses(project, parent, layers, weighed.adapter)
    layer = unite(project, weighed.adapter, name=name, parent=parent, origin=origin, losses=losses)
    admission = admit(project, layer, place, why=f"merge {name}", accept=accept, below=parent)
    return MergeResult(admission=admission, method=method, weighed=weighed, objective=objective.title)


def _find_entries(project: Project, names: Sequence[str]) -> list[StackEntry]:
    entries = [resolve_layer(project.store, name) for name in names]
    if len({entry.layer for entry in entries}) < max(2, len(entries)):
        raise UsageError(f"{' '.join(names)}: expected two different layers or more", hint="lamina merge A B --as NAME")
    return entries


def _common_parent(project: Project, layers: Sequence[LayerConfig]) -> StackConfig:
    first = layers[0]
    for layer in layers:
        if layer.base.digest != project.base.pin.digest:
            raise StackError(
                f"layer '{layer.name}' was trained on base {layer.base.name} ({layer.base.digest[7:19]}), this is "
                f"{project.base.pin.name} ({project.base.pin.digest[7:19]})",
                hint="only layers of the same base add up",
            )
        if layer.parent != first.parent:
            raise StackError(
                f"layer '{layer.name}' was trained on stack {layer.parent[7:19]}, '{first.name}' on "
                f"{first.parent[7:19]}; expected the same parent",
                hint="layers on top of one another are joined by `lamina squash`",
            )
    return read_stack(project.store, first.parent)


def _find_place(
    project: Project, entries: Sequence[StackEntry], parent: StackConfig, name: str, guards: Sequence[str]
) -> Place:
    """Return the place; skills that the branch does not hold yet must improve, the one it holds must not suffer."""
    place = find_place(project, name, guards)
    height = len(parent.layers)
    on_top = place.stack.layers[height:]
    merged = {entry.layer for entry in entries}
    if place.stack.layers[:height] != parent.layers or len(on_top) > 1 or not {each.layer for each in on_top} <= merged:
        raise StackError(
            f"branch '{place.branch}' holds {name_of(place.stack)}; expected {name_of(parent)}, on which the layers "
            "were trained, alone or with one of them on it",
            hint="`lamina branch` and `lamina switch` go where the result belongs",
        )
    held = {entry.layer for entry in on_top}
    suites = project.settings.suites
    new = [entry.name for entry in entries if entry.name in suites and entry.layer not in held]
    kept = [entry.name for entry in entries if entry.name in suites and entry.layer in held]
    own = tuple(dict.fromkeys([*place.own, *new]))
    guarded = tuple(suite for suite in dict.fromkeys([*place.guards, *kept]) if suite not in own)
    return dataclasses.replace(place, own=own, guards=guarded)


def _notes(method: str, weighed: Weighed, objective: Objective) -> dict[str, Any]:
    notes: dict[str, Any] = {
        "method": method,
        "objective": objective.title,
        "at_one": weighed.found.start_value,
        "found": weighed.found.value,
        "trials": weighed.found.evaluations,
    }
    if weighed.density is not None:
        notes["density"] = weighed.density
    if weighed.lost is not None:
        notes["relative_error"] = weighed.lost.total
    return notes


def _heldout_losses(
    project: Project, parent: StackConfig, layers: Sequence[LayerConfig], adapter: Adapter
) -> tuple[float | None, float | None]:
    rows = render_rows(project, heldout_sample(project, layers, _ROWS_PER_LAYER), project.loaded.context)
    if not rows:
        return None, None
    before = mean_loss(project.activate(parent), rows)
    return before, mean_loss(project.activate(parent, top=(adapter, 1.0), force=True), rows)
