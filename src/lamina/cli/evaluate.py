"""``lamina eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, show
from lamina.cli.progress import TerminalProgress


def run(
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    suite: Annotated[list[str] | None, typer.Option(help="only this suite; may be given again")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Score every prefix of a stack on every suite; what was scored before is not scored again."""
    from lamina.ops.evaluate import evaluate, prefixes
    from lamina.ops.project import open_project
    from lamina.report.matrix import render_matrix

    project = open_project(Path(), TerminalProgress())
    matrix = evaluate(project, prefixes(project.stack(stack)), suite or ())
    if json_:
        emit_json(matrix.to_dict())
    else:
        show(render_matrix(matrix))
