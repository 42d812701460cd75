"""``lamina switch``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say


def run(
    name: Annotated[str, typer.Argument(help="the branch to go to")],
    create: Annotated[bool, typer.Option("--create", "-c", help="make it first, at the current branch")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Go to another branch: what commands read, and train on top of, from now on."""
    from lamina.ops.branch import create_ref, switch

    if create:
        create_ref(Path(), name, None)
    stack = switch(Path(), name)
    say(f"on {name}: {stack}")
    if json_:
        emit_json({"branch": name, "stack": stack})
