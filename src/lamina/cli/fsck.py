"""``lamina fsck``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line, say
from lamina.cli.progress import TerminalProgress


def run(json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False) -> None:
    """Check every digest in the store, and mend refs and index from what is whole."""
    from lamina.ops.store import fsck

    findings = fsck(Path(), TerminalProgress())
    left = [finding for finding in findings if not finding.mended]
    if json_:
        emit_json({"findings": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            print_line(f"{'mended' if finding.mended else 'BROKEN'}  {finding.where}: {finding.what}")
    if left:
        say(f"{len(left)} left: pull, train or import what they belong to again, or `lamina undo` past them")
        raise typer.Exit(1)
    say("the store is whole")
