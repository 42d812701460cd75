"""``lamina train``: rows become a layer on top of a stack, and the layer enters a ref if nothing got worse."""

from __future__ import annotations

import platform
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lamina import __version__
from lamina.config import Recipe
from lamina.errors import DataError, StackError
from lamina.lora.adapter import save_adapter, scale_of
from lamina.lora.surgery import fresh_adapter, linear_paths
from lamina.model.machine import describe_machine, require_disk
from lamina.ops.admit import Admission, admit, find_place
from lamina.ops.project import Project
from lamina.ops.rows import TrainingData, identities, render_rows, replay_rows, rows_as_jsonl
from lamina.records import TokenRow
from lamina.refs import Digest
from lamina.stack.layers import list_layers, stack_digest, write_layer
from lamina.stack.manifest import (
    DATASET_TYPE,
    ROWS_TYPE,
    WEIGHTS_TYPE,
    Cost,
    DataSource,
    LayerConfig,
    StackConfig,
)
from lamina.stack.store import disk_errors
from lamina.train.choose import DataSize, choose
from lamina.train.loop import train_steps
from lamina.train.passes import mean_loss
from lamina.train.state import TrainState

__all__ = ["train_layer"]

_CHECKPOINT_EVERY_S = 20.0
_REPLAY_SAMPLE = 256
_FULL = "free some disk; the same command goes on from here"


@dataclass(frozen=True, slots=True)
class _Trained:
    weights: Path
    cost: Cost
    loss_before: float | None
    loss_after: float | None


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
) -> Admission:
    """Train one layer on top of the current branch and move the branch if the gate lets the layer in.

    A run that was stopped goes on from its last checkpoint when it is started again with the same data and recipe.
    Rank, batch, passes and learning rate follow from the data where ``recipe`` leaves them unset.

    Args:
        project: the open project.
        data: rows, rendered.
        name: the layer's name.
        recipe: hyper-parameters.
        origins: where the set values came from.
        skill: the suite that the layer should improve; None means the suite named like the layer, if there is one.
        guards: suites that must not get worse, besides those marked ``guard`` in the settings.
        accept: let the layer in whatever the gate says; the branch's log records it.

    Raises:
        DataError: if there is nothing to train on.
        UsageError: if a guard is no suite.
        StackError: if the loss diverges, or the branch moved meanwhile.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    if not data.train:
        raise DataError(data.files[0].path if data.files else name, "no rows to train on", hint="add rows")
    place = find_place(project, skill or name, guards)
    parent = place.stack
    replayed = replay_rows(project, parent, round(recipe.replay * len(data.train)))
    replay_tokens = render_rows(project, replayed, project.loaded.context)
    recipe, origins = _settle(project, data, replay_tokens, recipe, origins)
    layer = _find_candidate(project, data, name, recipe, parent)
    if layer is None:
        run = _run_folder(project, data, name, recipe, parent)
        trained = _run(project, data, replay_tokens, recipe, parent, run)
        layer = write_layer(project.store, _describe(project, data, name, recipe, origins, parent, trained))
        shutil.rmtree(run, ignore_errors=True)
    return admit(project, layer, place, why=f"train {name}", accept=accept)


def _settle(
    project: Project, data: TrainingData, replay: Sequence[TokenRow], recipe: Recipe, origins: dict[str, str]
) -> tuple[Recipe, dict[str, str]]:
    """Return the recipe with its unset values chosen from the data, and the origins with the reasons, and say them."""
    of_rank_1 = fresh_adapter(project.loaded.model, 1, recipe.seed)
    size = DataSize(
        rows=len(data.train) + len(replay),
        trained_tokens=sum(row.trained_count for row in data.train_tokens),
        parameters_per_rank=sum(pair.A.numel() + pair.B.numel() for pair in of_rank_1.values()),
    )
    chosen = choose(size, recipe)
    for key, choice in chosen.items():
        project.progress.note(f"{key} {choice.value:g}: {choice.reason}")
    settled = Recipe.model_validate(recipe.model_dump() | {key: choice.value for key, choice in chosen.items()})
    return settled, origins | {key: f"data: {choice.reason}" for key, choice in chosen.items()}


def _find_candidate(project: Project, data: TrainingData, name: str, recipe: Recipe, parent: StackConfig) -> str | None:
    """Return the layer that the same run gave before, for example one that the gate kept out."""
    rows = str(Digest.of_bytes(_rows_blob(data)))
    wanted = (name, stack_digest(parent), rows, recipe.model_dump(mode="json"))
    for digest, layer in list_layers(project.store):
        if (layer.name, layer.parent, layer.rows, layer.recipe) == wanted:
            project.progress.note(f"Layer {name} ({digest[7:19]}) was trained like this before; judging it again")
            return digest
    return None


def _rows_blob(data: TrainingData) -> bytes:
    return "\n".join(identities([*data.train, *data.heldout])).encode()


def _run_folder(project: Project, data: TrainingData, name: str, recipe: Recipe, parent: StackConfig) -> Path:
    same = [name, stack_digest(parent), recipe.model_dump_json(), *identities(data.train), *identities(data.heldout)]
    folder = project.store.root / "runs" / Digest.of_bytes("\n".join(same).encode()).short
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _run(
    project: Project, data: TrainingData, replay: Sequence[TokenRow], recipe: Recipe, parent: StackConfig, run: Path
) -> _Trained:
    base = project.activate(parent)
    if (reason := base.why_slower()) is not None:
        project.progress.note(reason)
    rows = [*data.train_tokens, *replay]
    state = TrainState(fresh_adapter(base.model, recipe.rank, recipe.seed), base.device)
    # Two checkpoints of four tensors each while one replaces the other, then the weights, twice.
    require_disk(run, 10 * state.values.nbytes, purpose="for checkpoint and layer")
    checkpoint = run / "checkpoint.safetensors"
    notes: dict[str, Any] = {"steps": 0, "tokens": 0, "trained_tokens": 0, "seconds": 0.0, "before": None}
    if checkpoint.exists():
        notes = state.load(checkpoint)
        project.progress.note(f"Going on from step {state.step}")
    elif data.heldout_tokens:
        notes["before"] = mean_loss(base, data.heldout_tokens)
    _train(project, rows, data.heldout_tokens, recipe, state, checkpoint, notes)
    _keep_best(project, state, notes["steps"])
    after = mean_loss(base, data.heldout_tokens) if data.heldout_tokens else None
    weights = run / "weights.safetensors"
    with disk_errors(weights, _FULL):
        save_adapter(state.adapter(scale_of(recipe.rank, recipe.alpha, rslora=recipe.rslora)), weights)
    cost = Cost(
        tokens=notes["tokens"], trained_tokens=notes["trained_tokens"], seconds=notes["seconds"], steps=state.step
    )
    return _Trained(weights, cost, notes["before"], after)


def _train(
    project: Project,
    rows: Sequence[TokenRow],
    heldout: Sequence[TokenRow],
    recipe: Recipe,
    state: TrainState,
    checkpoint: Path,
    notes: dict[str, Any],
) -> None:
    total = recipe.epochs * sum(len(row.ids) for row in rows)
    saved, measured = time.monotonic(), ""
    with project.progress.stage("train", total=total, unit="tok") as tick, _stop_requests() as stopping:
        tick(notes["tokens"])
        try:
            for record in train_steps(project.loaded, state, rows, recipe, heldout):
                notes["steps"] = record.steps
                notes["tokens"] += record.tokens
                notes["trained_tokens"] += record.trained_tokens
                notes["seconds"] += record.elapsed_s
                if record.heldout_loss is not None:
                    measured = f", held-out {record.heldout_loss:.3f}"
                tick(record.tokens, f"step {record.step}/{record.steps}, loss {record.loss:.3f}{measured}")
                if stopping.is_set() or time.monotonic() - saved > _CHECKPOINT_EVERY_S:
                    with disk_errors(checkpoint, _FULL):
                        state.save(checkpoint, notes)
                    saved = time.monotonic()
                if stopping.is_set():
                    project.progress.note("Stopped after a checkpoint; the same command goes on from here")
                    raise KeyboardInterrupt
        except FloatingPointError as error:
            raise StackError(f"training diverged: {error}", hint="lower --learning-rate") from error


def _keep_best(project: Project, state: TrainState, planned: int) -> None:
    if state.best is None:
        return
    if state.step < planned:
        project.progress.note(f"Stopped at step {state.step} of {planned}: the held-out loss no longer fell")
    if state.best.step < state.step:
        project.progress.note(f"Held-out loss was best at step {state.best.step} of {planned}; kept that one")
    state.restore_best()


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets, so that a step ends whole; the second interrupts as ever."""
    stopping = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    before = signal.getsignal(signal.SIGINT)

    def request(number: int, frame: Any) -> None:
        stopping.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, request)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)


def _describe(
    project: Project,
    data: TrainingData,
    name: str,
    recipe: Recipe,
    origins: dict[str, str],
    parent: StackConfig,
    trained: _Trained,
) -> LayerConfig:
    store, pin = project.store, project.base.pin
    weights = store.put_file(trained.weights, WEIGHTS_TYPE)
    rows = store.put_bytes(_rows_blob(data), ROWS_TYPE)
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
        machine=describe_machine(),
        versions={"lamina": __version__, "python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        licence=project.settings.licence,
    )
