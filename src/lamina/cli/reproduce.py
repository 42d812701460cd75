"""``lamina reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, print_line
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.reproduce import Reproduction

_MOST_MAPS = 5


def run(
    layer: Annotated[str, typer.Argument(help="a layer's name or digest")],
    data: Annotated[list[Path] | None, typer.Option(help="a file it was trained on; may be given again")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Train a layer again from what it records, and compare; exit with 1 if it comes out different."""
    from lamina.ops.project import open_project
    from lamina.ops.reproduce import reproduce

    project = open_project(Path(), TerminalProgress())
    with project.working("reproduce"):
        found = reproduce(project, layer, data or ())
    if json_:
        emit_json(
            {
                "layer": found.layer,
                "name": found.name,
                "outcome": found.outcome,
                "same_machine": not found.differences,
                "differences": list(found.differences),
                "weights": found.weights,
                "relative": found.relative,
                "modules": dict(found.modules),
                "heldout_loss": list(found.loss),
                "cost": found.cost.model_dump(),
            }
        )
    else:
        _print(found)
    if found.outcome == "different":
        raise typer.Exit(1)


def _print(found: Reproduction) -> None:
    where = "where this differs:" if found.differences else "on the same machine"
    print_line(f"{found.name} ({found.layer[7:19]}): {found.outcome}, trained again {where}")
    for line in found.differences:
        print_line(f"  {line}")
    if found.outcome != "identical":
        print_line(f"difference of the additions: {found.relative:.2%} of the recorded one")
        for path, share in list(found.modules.items())[:_MOST_MAPS]:
            print_line(f"  {share:8.2%}  {path}")
    recorded, now = found.loss
    if recorded is not None and now is not None:
        print_line(f"held-out loss: {now:.4f}, recorded {recorded:.4f} nats per token")
    print_line(f"{found.cost.tokens:,} tokens in {found.cost.seconds:.1f} s")
