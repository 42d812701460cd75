"""``lamina chart``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress


def run(
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("charts"),
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Draw what every layer did to every suite: PNG, SVG and one self-contained HTML report."""
    from lamina.ops.chart import write_charts
    from lamina.ops.evaluate import evaluate, prefixes
    from lamina.ops.project import open_project

    project = open_project(Path(), TerminalProgress())
    config = project.stack(stack)
    matrix = evaluate(project, prefixes(config))
    png, page = write_charts(project, matrix, config, out, title=f"{project.base.pin.name}, layer by layer")
    if json_:
        emit_json({"chart": str(png), "report": str(page)} | matrix.to_dict())
    else:
        say(f"{png}\n{png.with_suffix('.svg')}\n{page}")
