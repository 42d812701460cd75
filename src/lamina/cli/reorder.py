"""``lamina reorder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import change


def run(
    layers: Annotated[list[str], typer.Argument(help="every layer of the stack, bottom first")],
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Put the layers into another order. The sum, and so every answer, stays the same."""
    from lamina.ops.stack import reorder_layers

    change.report(reorder_layers(Path(), layers), as_json=json_)
