"""``lamina demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say, show
from lamina.cli.progress import TerminalProgress


def run(
    folder: Annotated[Path, typer.Argument(help="where the demo's project goes")] = Path("lamina-demo"),
    json_: Annotated[bool, typer.Option("--json", help="end with one JSON line")] = False,
) -> None:
    """Watch a 135M model gain two stacked skills and an update, with proof."""
    from lamina.ops.demo import run_demo
    from lamina.report.matrix import render_matrix, render_sides

    result = run_demo(folder, TerminalProgress())
    if not json_:
        show(render_matrix(result.matrix))
        show("")
        show(render_sides(result.sides))
        say(f"chart   {result.chart}\nreport  {result.report}")
        say(f"{result.elapsed_s:.0f} s. Go on: cd {folder}; lamina log; lamina chat")
        return
    matrix = result.matrix.to_dict()
    emit_json(
        {key: matrix[key] for key in ("stacks", "suites", "scores")}
        | {"elapsed_s": round(result.elapsed_s, 1), "chart": str(result.chart), "report": str(result.report)}
    )
