"""``lamina doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line


def run(json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False) -> None:
    """Measure what this machine can do."""
    from lamina.ops.doctor import examine

    report = examine()
    if json_:
        emit_json(report)
        return
    for key, value in report.items():
        print_line(f"{key.replace('_', ' '):16} {value}")
