"""``lamina train``: rows become a layer on top of a stack, and the layer enters a ref if nothing got worse."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lamina.config import Recipe
from lamina.errors import DataError
from lamina.evaluate.gate import LEVEL
from lamina.lora.adapter import load_adapter
from lamina.lora.surgery import fresh_adapter, linear_paths
from lamina.ops.admit import Admission, admit, find_place
from lamina.ops.project import Project
from lamina.ops.remedy import Work, make_recorded, mend, share_level
from lamina.ops.replay import render_replay
from lamina.ops.rows import TrainingData, identities, list_rows, rows_as_jsonl
from lamina.ops.run import Run, Trained, made_here, run_training
from lamina.ops.strength import SkillRows, Strength, find_strength
from lamina.records import TokenRow
from lamina.refs import Digest
from lamina.stack.layers import list_layers, read_layer, stack_digest, write_layer
from lamina.stack.manifest import (
    DATASET_TYPE,
    ROWS_TYPE,
    WEIGHTS_TYPE,
    Cost,
    DataSource,
    LayerConfig,
    StackConfig,
)
from lamina.stack.order import skill_of
from lamina.train.choose import DataSize, choose

__all__ = ["Made", "make_layer", "settle", "train_layer"]

_REPLAY_SAMPLE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A layer that was trained, and the scale at which it belongs on its parent."""

    layer: str
    scale: float


def train_layer(
    project: Project,
    data: TrainingData,
    *,
    name: str,
    recipe: Recipe,
    origins: dict[str, str],
    skill: str | None = None,
    guards: Sequence[str] = (),
    accept: bool = False,
    remedies: bool | None = None,
) -> Admission:
    """Train one layer on top of the current branch and move the branch if the gate lets the layer in.

    Where the gate refuses it, remedies are tried (``lamina.ops.remedy``). A run that was stopped goes on when it is
    started again with the same data and recipe: in training from its last checkpoint, else after what was trained and
    judged. Rank, batch, passes and learning rate follow from the data where ``recipe`` leaves them unset.

    Args:
        project: the open project.
        data: rows, rendered.
        name: the layer's name.
        recipe: hyper-parameters.
        origins: where the set values came from.
        skill: the suite that the layer should improve; None means the suite named like the layer, if there is one.
        guards: suites that must not get worse, besides those marked ``guard`` in the settings.
        accept: let the layer in whatever the gate says; the branch's log records it.
        remedies: whether to try any; None means what the settings say.

    Raises:
        DataError: if there is nothing to train on, or a suite's file cannot be used.
        UsageError: if a guard is no suite.
        StackError: if the loss diverges, or the branch moved meanwhile.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    place = find_place(project, skill or name, guards)
    work = Work(project=project, data=data, name=name, recipe=recipe, origins=origins, place=place, make=make_layer)
    made = make_recorded(work, "train", data=data, name=name, recipe=recipe, origins=origins, parent=place.stack)
    wanted = project.settings.remedies if remedies is None else remedies
    levels = share_level(work) if wanted and not accept else {}
    admission = admit(
        project,
        made.layer,
        place,
        scale=made.scale,
        why=f"train {name}",
        accept=accept,
        level=levels.get("", LEVEL),
    )
    return mend(work, made, admission, levels) if levels and not admission.accepted else admission


def make_layer(
    project: Project, data: TrainingData, *, name: str, recipe: Recipe, origins: dict[str, str], parent: StackConfig
) -> Made:
    """Train one layer on top of ``parent`` and write it to the store; no branch moves.

    What the same run gave before is returned without training; a run that was stopped goes on from its checkpoint.

    Raises:
        DataError: if there is nothing to train on.
        StackError: if the loss diverges.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    if not data.train:
        raise DataError(data.files[0].path if data.files else name, "no rows to train on", hint="add rows")
    replay = render_replay(project, parent, data, recipe)
    is_known = skill_of(parent, name) != name
    recipe, origins = settle(project, data, replay.rows, recipe, origins, is_known=is_known)
    found = _find_candidate(project, data, name, recipe, parent)
    if found is not None:
        layer = read_layer(project.store, found)
        own = SkillRows(data.heldout_tokens, layer.heldout_loss_before, layer.heldout_loss_after)
        strength = _strength(project, data, recipe, parent, project.store.blob_path(layer.weights), own)
        return Made(layer=found, scale=strength.scale)
    run = _run_folder(project, data, name, recipe, parent)
    plan = Run(parent=parent, recipe=recipe, rows=(*data.train_tokens, *replay.rows), heldout=data.heldout_tokens)
    trained = run_training(project, plan, run)
    own = SkillRows(data.heldout_tokens, trained.loss_before, trained.loss_after)
    strength = _strength(project, data, recipe, parent, trained.weights, own)
    whole = replace(trained, cost=Cost.total([trained.cost, replay.cost, strength.cost]))
    config = _describe(project, data, name, recipe, origins, parent, whole)
    config = config.model_copy(update={"mixed_in": _share(replay.rows, data), "stood_in": replay.lost or None})
    made = Made(layer=write_layer(project.store, config), scale=strength.scale)
    shutil.rmtree(run, ignore_errors=True)
    return made


def _share(mixed: Sequence[TokenRow], data: TrainingData) -> float:
    return round(sum(len(row.ids) for row in mixed) / sum(len(row.ids) for row in data.train_tokens), 4)


def _strength(
    project: Project, data: TrainingData, recipe: Recipe, parent: StackConfig, weights: Path, own: SkillRows
) -> Strength:
    if recipe.scale == "one":
        return Strength()
    tokens = round(recipe.epochs * sum(len(row.ids) for row in data.train_tokens))
    return find_strength(project, parent, load_adapter(weights), own, tokens=tokens)


def settle(
    project: Project,
    data: TrainingData,
    replay: Sequence[TokenRow],
    recipe: Recipe,
    origins: dict[str, str],
    *,
    is_known: bool = False,
) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe with its unset values chosen from the data, and the origins with the reasons, and say them.

    ``is_known`` says that the stack below has a layer of the same skill.
    """
    of_rank_1 = fresh_adapter(project.loaded.model, 1, recipe.seed)
    size = DataSize(
        rows=len(data.train) + len(replay),
        trained_tokens=sum(row.trained_count for row in data.train_tokens),
        parameters_per_rank=sum(pair.A.numel() + pair.B.numel() for pair in of_rank_1.values()),
        replayed=len(replay),
        is_known=is_known,
    )
    chosen = choose(size, recipe)
    for key, choice in chosen.items():
        project.progress.note(f"{key} {choice.value:g}: {choice.reason}")
    settled = Recipe.model_validate(recipe.model_dump() | {key: choice.value for key, choice in chosen.items()})
    return settled, origins | {key: f"data: {choice.reason}" for key, choice in chosen.items()}


def _find_candidate(project: Project, data: TrainingData, name: str, recipe: Recipe, parent: StackConfig) -> str | None:
    """Return the layer that the same run gave before, for example one that the gate kept out."""
    rows = str(Digest.of_bytes(list_rows(data)))
    wanted = (name, stack_digest(parent), rows)
    for digest, layer in list_layers(project.store):
        if (
            (layer.name, layer.parent, layer.rows) == wanted
            and layer.recipe
            and layer.origin is None  # carried onto another base it has the recipe, not the run
            and Recipe.recorded(layer.recipe) == recipe
        ):
            project.progress.note(f"Layer {name} ({digest[7:19]}) was trained like this before; judging it again")
            return digest
    return None


def _run_folder(project: Project, data: TrainingData, name: str, recipe: Recipe, parent: StackConfig) -> Path:
    same = [name, stack_digest(parent), recipe.model_dump_json(), *identities(data.train), *identities(data.heldout)]
    folder = project.store.root / "runs" / Digest.of_bytes("\n".join(same).encode()).short
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _describe(
    project: Project,
    data: TrainingData,
    name: str,
    recipe: Recipe,
    origins: dict[str, str],
    parent: StackConfig,
    trained: Trained,
) -> LayerConfig:
    store, pin = project.store, project.base.pin
    weights = store.put_file(trained.weights, WEIGHTS_TYPE)
    rows = store.put_bytes(list_rows(data), ROWS_TYPE)
    step = max(1, -(-len(data.train) // _REPLAY_SAMPLE))
    replay = store.put_bytes(rows_as_jsonl(data.train[::step]), DATASET_TYPE)
    heldout = None
    if data.heldout:
        heldout = store.put_bytes(rows_as_jsonl(data.heldout), DATASET_TYPE).digest
    return LayerConfig(
        name=name,
        base=pin,
        parent=stack_digest(parent),
        weights=weights.digest,
        rank=recipe.rank,
        modules=tuple(linear_paths(project.loaded.model)),
        recipe=recipe.model_dump(mode="json"),
        recipe_origins=origins,
        data=tuple(
            DataSource(file=Path(file.path).name, digest=file.digest, rows=len(file.rows)) for file in data.files
        ),
        rows=rows.digest,
        replay=replay.digest,
        heldout=heldout,
        cost=trained.cost,
        heldout_loss_before=trained.loss_before,
        heldout_loss_after=trained.loss_after,
        licence=project.settings.licence,
        **made_here(trained.passes),
    )
