"""``lamina tag``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import ref


def run(
    name: Annotated[str | None, typer.Argument(help="the new tag; without it, the list of all")] = None,
    stack: Annotated[str | None, typer.Argument(help="what it names; else the current branch's stack")] = None,
    delete: Annotated[bool, typer.Option("--delete", "-d", help="delete the tag; its layers stay")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """List tags, make one, delete one. A tag names a stack for good."""
    ref.run(Path(), name, stack, tag=True, delete=delete, force=False, as_json=json_)
