"""``lamina branch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import ref


def run(
    name: Annotated[str | None, typer.Argument(help="the new branch; without it, the list of all")] = None,
    stack: Annotated[str | None, typer.Argument(help="where it starts; else at the current branch")] = None,
    delete: Annotated[bool, typer.Option("--delete", "-d", help="delete the branch; its layers stay")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="move a branch that is there already")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """List branches, make one, delete one. `lamina switch` goes to it."""
    ref.run(Path(), name, stack, tag=False, delete=delete, force=force, as_json=json_)
