"""One training run: from rendered rows to a layer's weights, stopped and resumed at any moment (law 6).

``train`` runs what is new, ``reproduce`` what a layer records, ``rebase`` what it needs again on another parent.
"""

from __future__ import annotations

import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lamina import __version__
from lamina.config import Recipe
from lamina.errors import StackError
from lamina.lora.adapter import Adapter, rescale, save_adapter, scale_of
from lamina.lora.start import start_factors
from lamina.model.machine import describe_machine, require_disk
from lamina.ops.project import Project
from lamina.ops.steps import log_step
from lamina.records import TokenRow
from lamina.stack.manifest import Cost, StackConfig
from lamina.stack.store import disk_errors
from lamina.train.loop import train_steps
from lamina.train.memory import PassSizes
from lamina.train.passes import mean_loss
from lamina.train.state import TrainState

__all__ = ["PASSES_KEY", "Run", "Trained", "made_here", "run_training"]

PASSES_KEY = "pass_tokens"
_CHECKPOINT_EVERY_S = 20.0
_FULL = "free some disk; the same command goes on from here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Everything but the machine that a layer's bits follow from.

    Attributes:
        parent: the stack that is trained on top of.
        recipe: complete: nothing in it is chosen any more.
        rows: what is trained on, replayed rows included.
        heldout: what is only measured.
        start: factors to start from, scale folded in; None starts anew from the recipe's seed.
        passes: pass sizes of an earlier run, to cut every step as it did; empty measures the memory that is free.
    """

    parent: StackConfig
    recipe: Recipe
    rows: tuple[TokenRow, ...]
    heldout: tuple[TokenRow, ...] = ()
    start: Adapter | None = None
    passes: PassSizes = ()


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run gave: the file of weights, what it took, the held-out loss around it, and how steps were cut."""

    weights: Path
    cost: Cost
    loss_before: float | None
    loss_after: float | None
    passes: PassSizes


def run_training(project: Project, run: Run, folder: Path) -> Trained:
    """Train as ``run`` says, on from the checkpoint in ``folder`` if there is one.

    Args:
        project: the open project.
        run: what to train.
        folder: where checkpoint and weights lie; it belongs to this very run.

    Raises:
        StackError: if the loss diverges.
        MachineError: if disk or memory do not suffice.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    base = project.activate(run.parent)
    if (reason := base.why_slower()) is not None:
        project.progress.note(reason)
    scale = scale_of(run.recipe.rank, run.recipe.alpha, rslora=run.recipe.rslora)
    if run.start is None:
        below = project.adapters(run.parent.layers)
        start = start_factors(base.model, run.recipe.rank, run.recipe.seed, run.recipe.start, below)
    else:
        start = rescale(run.start, 1 / scale)
    state = TrainState(start, base.device)
    # Two checkpoints of four tensors each while one replaces the other, then the weights, twice.
    require_disk(folder, 10 * state.values.nbytes, purpose="for checkpoint and layer")
    checkpoint = folder / "checkpoint.safetensors"
    notes: dict[str, Any] = {
        "steps": 0, "tokens": 0, "trained_tokens": 0, "seconds": 0.0, "before": None, "passes": []
    }  # fmt: skip
    if checkpoint.exists():
        notes |= state.load(checkpoint)
        project.progress.note(f"Going on from step {state.step}")
    elif run.heldout:
        notes["before"] = mean_loss(base, run.heldout)
    _train(project, run, state, checkpoint, notes)
    _keep_best(project, state, notes["steps"])
    after = mean_loss(base, run.heldout) if run.heldout else None
    weights = folder / "weights.safetensors"
    with disk_errors(weights, _FULL):
        save_adapter(state.adapter(scale), weights)
    cost = Cost(
        tokens=notes["tokens"], trained_tokens=notes["trained_tokens"], seconds=notes["seconds"], steps=state.step
    )
    passes = tuple((step, tokens) for step, tokens in notes["passes"])
    return Trained(weights, cost, notes["before"], after, passes)


def made_here(passes: PassSizes = ()) -> dict[str, Any]:
    """Return the fields of a layer that say where, with what and when it was made, and how a run cut its steps."""
    cut = {PASSES_KEY: [list(size) for size in passes]} if passes else {}
    return {
        "machine": {**describe_machine(), **cut},
        "versions": {"lamina": __version__, "python": platform.python_version()}
        | {package: version(package) for package in ("torch", "transformers")},
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def _train(project: Project, run: Run, state: TrainState, checkpoint: Path, notes: dict[str, Any]) -> None:
    total = run.recipe.epochs * sum(len(row.ids) for row in run.rows)
    saved, measured, moved = time.monotonic(), "", ""
    with project.progress.stage("train", total=total, unit="tok") as tick, _stop_requests() as stopping:
        tick(notes["tokens"])
        try:
            for record in train_steps(project.loaded, state, run.rows, run.recipe, run.heldout, run.passes):
                notes["steps"] = record.steps
                notes["tokens"] += record.tokens
                notes["trained_tokens"] += record.trained_tokens
                notes["seconds"] += record.elapsed_s
                if not notes["passes"] or notes["passes"][-1][1] != record.pass_tokens:
                    notes["passes"].append([record.step, record.pass_tokens])
                if record.heldout_loss is not None:
                    measured = f", held-out {record.heldout_loss:.3f}"
                log_step(checkpoint.parent, record)
                if record.divergence is not None:
                    moved = f", from parent {record.divergence:.3f}"
                tick(record.tokens, f"step {record.step}/{record.steps}, loss {record.loss:.3f}{measured}{moved}")
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
        project.progress.note(f"Stopped at step {state.step} of {planned}: the held-out loss rose")
    if state.restore_best():
        project.progress.note(f"Held-out loss was best at step {state.best.step} of {planned}; kept that one")


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
