"""``lamina undo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import change


def run(
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Take back the last change of the current branch: a layer trained, dropped, moved, pulled."""
    from lamina.ops.stack import undo

    change.report(undo(Path()), as_json=json_)
