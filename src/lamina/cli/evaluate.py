"""``lamina eval``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, show
from lamina.cli.progress import TerminalProgress
from lamina.errors import UsageError


def run(
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="only this suite; may be given again")] = None,
    task: Annotated[list[str] | None, typer.Option(help="a task of lm-evaluation-harness instead")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Score every prefix of a stack on every suite; what was scored before is not scored again."""
    from lamina.evaluate.transfer import measure_transfer
    from lamina.ops.evaluate import evaluate, evaluate_tasks, overlaps, prefixes
    from lamina.ops.project import open_project
    from lamina.report.matrix import render_matrix, render_transfer

    progress = TerminalProgress()
    project = open_project(Path(), progress)
    stacks = prefixes(project.stack(stack))
    if task and not suite:
        matrix, found = evaluate_tasks(project, stacks, task), {}
    elif task:
        raise UsageError("--suite and --task: expected one of them", hint="run `lamina eval` twice")
    else:
        matrix, found = evaluate(project, stacks, suite or ()), overlaps(project, suite or ())
    for name, overlap in found.items():
        progress.note(f"overlap of {name} with training: {overlap.describe()}")
    transfer = measure_transfer(matrix)
    if json_:
        more = {"overlap": {name: asdict(overlap) for name, overlap in found.items()}}
        emit_json(matrix.to_dict() | more | {"transfer": asdict(transfer) if transfer else None})
    else:
        show(render_matrix(matrix))
        if transfer is not None:
            show(render_transfer(transfer))
        for score in matrix.scores[-1]:
            if score.figures:
                figures = ", ".join(f"{name} {value:.4g}" for name, value in score.figures.items())
                progress.note(f"{score.suite} on {matrix.stacks[-1]}: {figures}")
