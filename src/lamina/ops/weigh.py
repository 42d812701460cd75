"""Layers weighed against one another: the scalars, and for some methods the density, that do best on dev rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lamina.errors import StackError, UsageError
from lamina.evaluate.run import run_suite
from lamina.lora.adapter import Adapter, combine
from lamina.lora.squash import Lost
from lamina.lora.surgery import attach
from lamina.merge.layers import THINNED, merge_dense
from lamina.merge.search import Found, Point, pattern_search
from lamina.ops.evaluate import find_suites
from lamina.ops.project import Project
from lamina.ops.rows import heldout_sample, render_rows, spread, stored_rows
from lamina.records import Tick
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.train.passes import mean_loss

__all__ = ["Objective", "Weighed", "own_rows", "suite_score", "weigh"]

_DENSITIES = (0.2, 0.5, 1.0)
_ROWS_PER_LAYER = 48
_MOST = 2.0
_TRIALS_PER_SCALAR = 10
_TRIALS_PER_DENSITY = 8


@dataclass(frozen=True, slots=True)
class Objective:
    """What is made small: a function of whatever layers are attached to the project's base, and its name."""

    measure: Callable[[], float]
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """The best merge that was found.

    Attributes:
        adapter: its weights, scalars folded in.
        scales: a scalar for each layer with ``concat``, else one for the merged whole.
        density: share of entries kept, None where the method keeps all.
        found: what the search saw.
        lost: what did not fit the rank, None for ``concat``, which is exact.
    """

    adapter: Adapter
    scales: Point
    density: float | None
    found: Found
    lost: Lost | None


def suite_score(project: Project, name: str) -> Objective:
    """Return the objective that makes a suite's score large.

    Raises:
        UsageError: if there is no such suite.
    """
    suites = find_suites(project)
    if name not in suites:
        raise UsageError(f"--dev {name}: no such suite", hint=f"known: {', '.join(suites) or 'none'}")
    suite = suites[name]

    def measure() -> float:
        return -run_suite(project.loaded, suite, lambda amount, detail="": None).mean

    return Objective(measure, f"minus the score of {name}")


def own_rows(
    project: Project, parent: StackConfig, layers: Sequence[LayerConfig], adapters: Sequence[Adapter]
) -> Objective:
    """Return the objective that keeps every layer's own skill: the mean of loss ratios.

    On each layer's held-out rows the loss is divided by that of the layer alone on the parent, so that a skill with
    large losses weighs no more than one with small ones. A layer without held-out rows is weighed by a sample of what
    it was trained on, and that is said.

    Raises:
        StackError: if a layer's rows are not on this machine.
    """
    sets, alone = [], []
    for layer, adapter in zip(layers, adapters, strict=True):
        rows = heldout_sample(project, [layer], _ROWS_PER_LAYER)
        if not rows:
            rows = spread(stored_rows(project.store, layer.replay), _ROWS_PER_LAYER)
            project.progress.note(f"layer {layer.name} has no held-out rows: rows it was trained on stand in for them")
        if not rows:
            raise StackError(
                f"layer '{layer.name}': its rows are not on this machine, so nothing can weigh it",
                hint="name a suite: --dev SUITE",
            )
        sets.append(render_rows(project, rows, project.loaded.context))
        alone.append(mean_loss(project.activate(parent, top=(adapter, 1.0), force=True), sets[-1]))

    def measure() -> float:
        return sum(mean_loss(project.loaded, rows) / own for rows, own in zip(sets, alone, strict=True)) / len(sets)

    return Objective(measure, "held-out loss, as a share of each layer's alone")


def weigh(
    project: Project, parent: StackConfig, adapters: Sequence[Adapter], method: str, objective: Objective
) -> Weighed:
    """Return the best merge of ``adapters`` on ``parent`` by ``method``, the same one every time.

    Args:
        project: the open project.
        parent: what the layers were trained on.
        adapters: their weights.
        method: one of ``lamina.merge.layers.METHODS``.
        objective: what is made small; at most ten trials for each scalar, eight for each density.
    """
    if method == "concat":
        found = _search(project, parent, adapters, objective, _TRIALS_PER_SCALAR * len(adapters), "weigh")
        whole = combine(adapters, found.point)
        return Weighed(adapter=whole, scales=found.point, density=None, found=found, lost=None)
    tried = []
    for density in _DENSITIES if method in THINNED else (None,):
        label = method if density is None else f"{method} at {density:g}"
        maps = len({path for adapter in adapters for path in adapter})
        with project.progress.stage(label, total=maps, unit="maps") as tick:
            merged, lost = merge_dense(adapters, method, density=density or 1.0, tick=tick)
        found = _search(project, parent, [merged], objective, _TRIALS_PER_DENSITY, f"weigh {label}")
        whole = combine([merged], found.point)
        tried.append(Weighed(adapter=whole, scales=found.point, density=density, found=found, lost=lost))
    return min(tried, key=lambda each: each.found.value)


def _search(
    project: Project, parent: StackConfig, adapters: Sequence[Adapter], objective: Objective, budget: int, label: str
) -> Found:
    below, scales = project.adapters(parent.layers), [entry.scale for entry in parent.layers]

    def trial(point: Point, tick: Tick) -> float:
        attach(project.loaded.model, [*below, *adapters], [*scales, *point])
        value = objective.measure()
        tick(1, f"{' '.join(f'{scale:g}' for scale in point)}: {value:.4f}")
        return value

    with project.progress.stage(label, total=budget, unit="trials") as tick:
        return pattern_search(
            lambda point: trial(point, tick), [1.0] * len(adapters), low=0.0, high=_MOST, budget=budget
        )
