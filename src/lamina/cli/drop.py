"""``lamina drop``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import change


def run(
    layer: Annotated[str, typer.Argument(help="a layer's name or digest")],
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Take a layer out of the current branch; what lay above it stays."""
    from lamina.ops.stack import drop

    change.report(drop(Path(), layer), as_json=json_)
