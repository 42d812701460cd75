"""``lamina rebase``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.init import Quantise
from lamina.cli.output import emit_json, say, show
from lamina.cli.progress import TerminalProgress
from lamina.errors import UsageError

if TYPE_CHECKING:
    from lamina.ops.place import Placed
    from lamina.ops.rebase import Planned, Rebased, Task

_WHICH = "give one of --order a,b,c, --onto STACK and --base MODEL"


def run(
    order: Annotated[str | None, typer.Option(help="all layers of the branch in a new order: a,b,c")] = None,
    onto: Annotated[str | None, typer.Option(help="the stack to put this branch's own layers on")] = None,
    base: Annotated[str | None, typer.Option(help="another base: folder, .gguf file or hub id")] = None,
    revision: Annotated[str | None, typer.Option(help="revision of a hub id")] = None,
    quantise: Annotated[Quantise, typer.Option(help="hold the other base in 8 or 4 bits")] = Quantise.none,
    data: Annotated[list[Path] | None, typer.Option(help="a file to train on again; may be given again")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    accept: Annotated[bool, typer.Option("--accept", help="move also if a layer's best step is not enough")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Carry layers to another order, stack or base, each by the cheapest step whose held-out loss is near the old one.

    Exact where algebra allows it; otherwise carried, realigned by a short distillation, or trained again.
    """
    if sum(choice is not None for choice in (order, onto, base)) != 1:
        raise UsageError("one thing to rebase on is expected", hint=_WHICH)
    if base is None and (revision is not None or quantise is not Quantise.none):
        raise UsageError(
            "--revision and --quantise belong to --base", hint="lamina rebase --base MODEL --quantise int8"
        )
    from lamina.ops import rebase

    if order is not None:
        from lamina.stack.store import Store

        store, names = Store.find(Path()), order.split(",")
        if dry_run:
            _report_plan(rebase.plan_order(store, names), as_json=json_)
        else:
            _report(rebase.reorder_branch(store, names), as_json=json_)
        return
    task = _task(onto, base, revision, quantise.value, data or [])
    if dry_run:
        _report_plan(rebase.plan(task), as_json=json_)
    else:
        with task.sides.new.working("rebase"):
            done = rebase.carry_out(task, accept=accept)
        _report(done, as_json=json_)


def _task(onto: str | None, base: str | None, revision: str | None, quantise: Any, data: list[Path]) -> Task:
    from lamina.config import BaseSettings
    from lamina.ops import rebase
    from lamina.ops.project import open_project

    project = open_project(Path(), TerminalProgress())
    if onto is not None:
        return rebase.onto(project, onto, data)
    return rebase.to_base(project, BaseSettings(model=base or "", revision=revision, quantise=quantise), data)


def _report_plan(planned: list[Planned], *, as_json: bool) -> None:
    if as_json:
        layers = [
            {
                "name": layer.name,
                "layer": layer.layer,
                "exact": layer.is_exact,
                "measured_on": layer.measured_on or None,
                "steps": list(layer.steps),
            }
            for layer in planned
        ]
        emit_json({"layers": layers})
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("layer", "measured on", "first that does"):
        table.add_column(column)
    for layer in planned:
        on = "nothing: exact" if layer.is_exact else layer.measured_on or "nothing: cannot be moved"
        table.add_row(layer.name, on, "; ".join(layer.steps))
    show(table)


def _report(result: Rebased, *, as_json: bool) -> None:
    if as_json:
        emit_json(
            {
                "branch": result.branch,
                "stack": result.stack,
                "moved": result.moved,
                "layers": [_record(layer) for layer in result.layers],
                "cost": result.cost.model_dump(),
            }
        )
    else:
        _print(result)
    if not result.moved:
        raise typer.Exit(1)


def _record(layer: Placed) -> dict[str, Any]:
    return {
        "name": layer.entry.name,
        "layer": layer.entry.layer,
        "step": layer.step,
        "exact": layer.is_exact,
        "measured_on": layer.measured_on or None,
        "loss": None if layer.loss is None else list(layer.loss),
        "most": layer.most,
        "sufficient": layer.is_sufficient,
        "tried": [
            {"step": attempt.step, "loss": attempt.loss, "rows": attempt.rows, "cost": attempt.cost.model_dump()}
            for attempt in layer.tried
        ],
        "cost": layer.cost.model_dump(),
    }


def _print(result: Rebased) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True, max_width=20)
    table.add_column("step", no_wrap=True)
    for column in ("nats/byte", "would do", "tokens", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in result.layers:
        step = f"{layer.step}{'' if layer.is_sufficient else ' ▼'}"
        loss = "exact" if layer.loss is None else f"{layer.loss[0]:.4f}→{layer.loss[1]:.4f}"
        most = "" if layer.most is None else f"{layer.most:.4f}"
        table.add_row(layer.entry.name, step, loss, most, f"{layer.cost.tokens:,}", f"{layer.cost.seconds:.0f}s")
    show(table)
    cost = result.cost
    if cost.tokens:
        say(f"{cost.tokens:,} tokens, {cost.trained_tokens:,} trained on, in {cost.seconds:.0f} s")
    if result.moved:
        say(f"{result.branch} is now {result.stack[7:19]}; `lamina undo` goes back")
        return
    last = result.layers[-1]
    say(
        f"refused: no step keeps layer {last.entry.name} within {last.most:.4f} nats per byte; {result.branch} stays "
        "where it was. What was trained is kept as a candidate: run again with --accept to take it"
    )
