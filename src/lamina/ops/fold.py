"""``lamina fold``: a stack becomes a model of its own, with what rounding took measured (law 9)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

from lamina import __version__
from lamina.config import BaseSettings
from lamina.errors import StackError, UsageError
from lamina.infer.drift import LogitDrift, Look, logit_drift, look
from lamina.lora.fold import FoldDrift, fold
from lamina.lora.surgery import attach, detach, linear_weights
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.model.folder import stored_dtype, write_folder
from lamina.model.machine import require_disk
from lamina.ops.project import Project
from lamina.ops.rows import heldout_sample, render_rows
from lamina.records import Conversation, Quiet, TokenRow
from lamina.stack.layers import name_of, read_layer, stack_digest
from lamina.stack.manifest import StackConfig
from lamina.stack.order import check_parents
from lamina.stack.store import disk_errors, scratch_folder

__all__ = ["FIXED_TEXTS", "FoldResult", "fold_stack"]

_ROWS_PER_LAYER = 32
# What is measured on where no layer has held-out rows: a little of everything, the same every time.
FIXED_TEXTS = (
    "The capital of France is Paris, and the river that runs through it is the Seine.",
    "def add(a, b):\n    return a + b\n",
    "Q: What is 12 times 8?\nA: 12 times 8 is 96.",
    "Dear Sir or Madam, I am writing to ask about the order that I placed last week.",
    "Water boils at 100 degrees Celsius at sea level, and at less on a mountain.",
    "Once upon a time there was a fox who lived at the edge of a wood.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldResult:
    """What folding gave.

    Attributes:
        folder: where the model lies.
        stack: what was folded.
        dtype: of the folded weights, the base's own.
        weights: what rounding took of the layers' additions.
        logits: how far the folder's logits lie from the stack's, both computed in float32.
        rows: how many rows that was measured on; ``measured_on`` says which.
    """

    folder: Path
    stack: StackConfig
    dtype: str
    weights: FoldDrift
    logits: LogitDrift
    rows: int
    measured_on: str


def fold_stack(project: Project, expression: str | None, out: Path) -> FoldResult:
    """Write the base with the stack's layers folded in as a Hugging Face folder, whole or not at all.

    Args:
        project: the open project.
        expression: the stack; None means the current branch.
        out: the folder, which must not exist yet.

    Raises:
        UsageError: if ``out`` exists, or the stack has no layers.
        StackError: if the base is quantised, or a layer does not fit it.
        MachineError: if the disk is too full.
    """
    stack = project.stack(expression)
    _check(project, stack, out)
    dtype = stored_dtype(project.base.folder)
    size = sum(path.stat().st_size for path in project.base.folder.glob("*.safetensors"))
    require_disk(out.parent, size + size // 10, purpose="for the folded model")
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    heldout = heldout_sample(project, layers, _ROWS_PER_LAYER)
    rows = render_rows(project, heldout or [Conversation(text=text) for text in FIXED_TEXTS], project.loaded.context)
    project.release()  # two in float32 follow, one after the other
    with disk_errors(out), scratch_folder(out.parent) as scratch:
        before, weights = _fold_into(project, stack, dtype, rows, scratch)
        logits = _measure(project, before, rows, scratch)
        result = FoldResult(
            folder=out,
            stack=stack,
            dtype=str(dtype).removeprefix("torch."),
            weights=weights,
            logits=logits,
            rows=len(rows),
            measured_on="held-out rows" if heldout else "fixed texts",
        )
        (scratch / "lamina.json").write_text(json.dumps(_provenance(project, result), indent=1) + "\n", "utf-8")
        scratch.chmod(0o755)
        scratch.rename(out)
    return result


def _check(project: Project, stack: StackConfig, out: Path) -> None:
    if out.exists():
        raise UsageError(f"--out {out}: exists already, and is never overwritten", hint="name a folder that does not")
    if not stack.layers:
        raise UsageError(f"{name_of(stack)}: no layers to fold", hint="`lamina log` lists them")
    pin = project.base.pin
    quantised = pin.quantise if pin.quantise != "none" else _own_quantisation(project.base.folder)
    if quantised is not None:
        raise StackError(
            f"base {pin.name} is quantised ({quantised}): on its coarse grid most of a layer would be rounded away",
            hint="fold onto the base in 16 or 32 bits, then quantise the result once",
        )
    check_parents(project.store, stack, pin)


def _own_quantisation(folder: Path) -> str | None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    found = config.get("quantization_config")
    return str(found.get("quant_method", "quantised")) if found else None


def _fold_into(
    project: Project, stack: StackConfig, dtype: torch.dtype, rows: Sequence[TokenRow], folder: Path
) -> tuple[Look, FoldDrift]:
    """Write the folded model and return what the live stack makes of the rows, and what rounding took."""
    adapters = project.adapters(stack.layers)
    scales = [entry.scale for entry in stack.layers]
    live = load_base(project.base, dtype=torch.float32)
    attach(live.model, adapters, scales)
    with project.progress.stage("the stack", total=len(rows), unit="rows") as tick:
        before = look(live, rows, tick)
    detach(live.model)
    weights = linear_weights(live.model)
    folded, drift = fold(weights, adapters, scales, dtype)
    with torch.no_grad():
        for path, weight in folded.items():
            weights[path].copy_(weight)
    # Whatever was not folded came out of this dtype, so that going back to it changes nothing.
    write_folder(live.model.to(dtype), project.base.folder, project.base.template, folder)
    return before, drift


def _measure(project: Project, before: Look, rows: Sequence[TokenRow], folder: Path) -> LogitDrift:
    """Return how far the model that was written lies from the live stack."""
    base = resolve_base(BaseSettings(model=str(folder)), Quiet())
    written: LoadedBase = load_base(base, dtype=torch.float32)
    with project.progress.stage("the folder", total=len(rows), unit="rows") as tick:
        return logit_drift(written.head, before, look(written, rows, tick))


def _provenance(project: Project, result: FoldResult) -> dict[str, object]:
    stack = result.stack
    return {
        "lamina": __version__,
        "folded": name_of(stack),
        "stack": stack_digest(stack),
        "base": project.base.pin.model_dump(mode="json"),
        "layers": [{"name": entry.name, "digest": entry.layer, "scale": entry.scale} for entry in stack.layers],
        "dtype": result.dtype,
        "weights_relative_error": result.weights.total,
        "logit_drift": dataclasses.asdict(result.logits),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
