"""``lamina reproduce``: a layer trained again from what it records, and compared with what it is."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lamina.config import Recipe
from lamina.errors import StackError
from lamina.lora.adapter import Adapter, combine, load_adapter
from lamina.lora.compare import adapter_norm, delta_norm
from lamina.ops.project import Project
from lamina.ops.replay import render_replay
from lamina.ops.rows import prepare_rows, recorded_sides
from lamina.ops.run import PASSES_KEY, Run, Trained, made_here, run_training
from lamina.ops.sources import recorded_rows
from lamina.refs import Digest
from lamina.stack.layers import read_layer, read_stack
from lamina.stack.manifest import Cost, LayerConfig, StackConfig
from lamina.stack.resolve import resolve_layer
from lamina.train.memory import PassSizes

__all__ = ["LOSS_TOLERANCE", "WEIGHTS_TOLERANCE", "Reproduction", "reproduce"]

# docs/design/reproduce.md says what other threads, kernels and dtypes were measured to change.
WEIGHTS_TOLERANCE = 0.25
LOSS_TOLERANCE = 0.01
Outcome = Literal["identical", "within tolerance", "different"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """A layer beside itself.

    Attributes:
        layer: its digest.
        name: its name.
        outcome: whether every bit is the same; else, on another machine, whether it is as near as machines are.
        differences: in what machine and versions differ from those recorded; empty on the same machine.
        weights: digest of the weights trained now.
        relative: Frobenius norm of the difference of the additions over that of the recorded one, all maps together.
        modules: the same by map, the largest first.
        loss: held-out loss recorded, and now.
        cost: what it took.
    """

    layer: str
    name: str
    outcome: Outcome
    differences: tuple[str, ...]
    weights: str
    relative: float
    modules: Mapping[str, float]
    loss: tuple[float | None, float | None]
    cost: Cost


def reproduce(project: Project, name: str, paths: Sequence[Path] = ()) -> Reproduction:
    """Train the layer ``name`` again and return how it compares. No ref moves, and nothing is kept.

    Args:
        project: the open project.
        name: the layer's name or digest.
        paths: files to take its data from, besides the project's folder.

    Raises:
        DataError: if its files are missing or have changed.
        StackError: if it was not trained, belongs to another base, or what it was trained on is not here.
    """
    digest = resolve_layer(project.store, name).layer
    layer = read_layer(project.store, digest)
    _check(project, layer)
    recipe = Recipe.recorded(layer.recipe)
    sides = recorded_sides(project.store, layer)
    data = prepare_rows(project, *recorded_rows(project, layer, paths), recipe, sides=sides)
    parent = read_stack(project.store, layer.parent)
    _check_replay(project, parent, layer, recipe)
    replay = render_replay(project, parent, data, recipe, layer.stood_in or ())
    run = Run(
        parent=parent,
        recipe=recipe,
        rows=(*data.train_tokens, *replay.rows),
        heldout=data.heldout_tokens,
        passes=_passes(layer.machine),
    )
    folder = project.store.root / "runs" / f"reproduce-{digest[7:19]}"
    folder.mkdir(parents=True, exist_ok=True)
    trained = run_training(project, run, folder)
    found = _compare(project, digest, layer, trained)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def _check(project: Project, layer: LayerConfig) -> None:
    if layer.origin is not None:
        why = {
            "import": "it was trained elsewhere and came without its recipe and data",
            "squash": "`lamina squash` computed it from other layers",
            "merge": "`lamina merge` computed it from other layers",
        }.get(layer.origin.method, f"`lamina rebase` made it ({layer.origin.method}) from another layer")
        listed = ", ".join(digest[7:19] for digest in layer.origin.layers)
        raise StackError(
            f"layer '{layer.name}' was not trained from a recipe here: {why}",
            hint=f"reproduce what it came from: {listed}" if listed else "ask whoever trained it",
        )
    pin = project.base.pin
    if layer.base.digest != pin.digest:
        raise StackError(
            f"layer '{layer.name}' was trained on base {layer.base.name} ({layer.base.digest[7:19]}), "
            f"this project is on {pin.name} ({pin.digest[7:19]})",
            hint=f"reproduce it in a project on that base: lamina init --base {layer.base.source}",
        )


def _check_replay(project: Project, parent: StackConfig, layer: LayerConfig, recipe: Recipe) -> None:
    if recipe.replay == 0:
        return
    for entry in parent.layers:
        if entry.name in (layer.stood_in or ()):
            continue
        replay = read_layer(project.store, entry.layer).replay
        if replay is not None and not project.store.has(replay):
            raise StackError(
                f"rows of layer '{entry.name}' were replayed in training, and its sample ({replay}) is not here",
                hint="pull the stack from where it was pushed --with-data",
            )


def _passes(machine: Mapping[str, Any]) -> PassSizes:
    return [(step, tokens) for step, tokens in machine.get(PASSES_KEY, ())]


def _compare(project: Project, digest: str, layer: LayerConfig, trained: Trained) -> Reproduction:
    old, new = load_adapter(project.store.blob_path(layer.weights)), load_adapter(trained.weights)
    gap = combine([old, new], [1.0, -1.0])
    by_map = {path: _share(delta_norm(factors), old, path) for path, factors in gap.items()}
    relative = adapter_norm(gap) / max(adapter_norm(old), 1e-30)
    here = made_here(trained.passes)
    differences = (*_differ(layer.machine, here["machine"]), *_differ(layer.versions, here["versions"]))
    weights = str(Digest.of_file(trained.weights))
    loss = (layer.heldout_loss_after, trained.loss_after)
    outcome: Outcome = "identical" if weights == layer.weights else "different"
    if outcome == "different" and differences and relative <= WEIGHTS_TOLERANCE and _is_near(*loss):
        outcome = "within tolerance"
    return Reproduction(
        layer=digest,
        name=layer.name,
        outcome=outcome,
        differences=differences,
        weights=weights,
        relative=0.0 if outcome == "identical" else relative,
        modules=dict(sorted(by_map.items(), key=lambda pair: -pair[1])),
        loss=loss,
        cost=trained.cost,
    )


def _share(gap: float, old: Adapter, path: str) -> float:
    return gap / max(delta_norm(old[path]) if path in old else 0.0, 1e-30)


def _is_near(recorded: float | None, now: float | None) -> bool:
    return recorded is None or (now is not None and abs(now - recorded) <= LOSS_TOLERANCE)


def _differ(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    keys = dict.fromkeys([*recorded, *here])
    changed = [key for key in keys if recorded.get(key) != here.get(key)]
    return [f"{key}: {here.get(key)}, recorded {recorded.get(key)}" for key in changed]
