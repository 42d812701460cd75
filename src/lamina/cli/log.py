"""``lamina log``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, show


def run(
    stack: Annotated[str, typer.Argument(help="ref, digest or base+layer+layer")] = "main",
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """List the layers of a stack, top first, with what they cost and did."""
    from lamina.ops.lineage import read_lineage

    lineage = read_lineage(Path(), stack)
    if json_:
        emit_json(
            {
                "base": lineage.stack.base.model_dump(),
                "layers": [
                    {
                        "name": entry.name,
                        "digest": entry.layer,
                        "scale": entry.scale,
                        "parent": layer.parent,
                        "created": layer.created,
                        "cost": layer.cost.model_dump(),
                        "heldout_loss": [layer.heldout_loss_before, layer.heldout_loss_after],
                    }
                    for entry, layer in lineage.layers
                ],
                "refs": lineage.refs,
                "moves": [{"new": move.new, "when": move.when, "why": move.why} for move in lineage.moves],
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("layer", "digest", "created", "rows", "tokens", "time", "held-out loss"):
        table.add_column(column, justify="left" if column in ("layer", "digest", "created") else "right", no_wrap=True)
    for entry, layer in reversed(lineage.layers):
        name = entry.name if entry.scale == 1.0 else f"{entry.name}:{entry.scale:g}"
        table.add_row(
            name,
            entry.layer[7:15],
            layer.created[:16].replace("T", " "),
            str(sum(file.rows for file in layer.data)),
            f"{layer.cost.tokens:,}",
            f"{layer.cost.seconds:.0f}s",
            _change(layer.heldout_loss_before, layer.heldout_loss_after),
        )
    base = lineage.stack.base
    table.add_row(f"{base.name}", base.digest[7:15], "(base)")
    show(table)


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"{before:.2f} -> {after:.2f}"
