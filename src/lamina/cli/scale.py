"""``lamina scale``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import change


def run(
    layer: Annotated[str, typer.Argument(help="a layer's name or digest")],
    factor: Annotated[float, typer.Argument(help="what its addition is multiplied by")],
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Weigh a layer: 1 as trained, 0.5 half of it, 0 switched off."""
    from lamina.ops.stack import scale

    change.report(scale(Path(), layer, factor), as_json=json_)
