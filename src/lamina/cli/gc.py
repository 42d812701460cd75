"""``lamina gc``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line, say


def run(
    yes: Annotated[bool, typer.Option("--yes", help="remove it; without this, only say what would go")] = False,
    forget_history: Annotated[
        bool, typer.Option("--forget-history", help="also what only undo could bring back")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Remove what no branch or tag reaches: refused, dropped and squashed layers. Without --yes, a dry run."""
    from lamina.ops.store import gc

    garbage = gc(Path(), remove=yes, forget_history=forget_history)
    if json_:
        emit_json(
            {
                "removed": yes,
                "layers": [{"name": name, "digest": digest} for name, digest in garbage.layers],
                "stacks": [digest for _, digest in garbage.stacks],
                "files": len(garbage.files),
                "bytes": garbage.size_bytes,
            }
        )
        return
    for name, digest in garbage.layers:
        print_line(f"layer {digest[7:15]}  {name}")
    for name, digest in garbage.stacks:
        print_line(f"stack {digest[7:15]}  {name}")
    what = f"{len(garbage.files)} files, {garbage.size_bytes / 1e6:.1f} MB"
    if not garbage.files and not garbage.entries:
        say("nothing to remove (what is younger than an hour is kept)")
    else:
        say(f"removed {what}" if yes else f"would remove {what}: `lamina gc --yes` does")
