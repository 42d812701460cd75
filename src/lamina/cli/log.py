"""``lamina log``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, show

if TYPE_CHECKING:
    from lamina.records import Score
    from lamina.stack.manifest import LayerConfig


def run(
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
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
                        "effect": {name: [before.mean, after.mean] for name, (before, after) in effect.items()},
                    }
                    for (entry, layer), effect in zip(lineage.layers, lineage.effects, strict=True)
                ],
                "refs": lineage.refs,
                "moves": [{"new": move.new, "when": move.when, "why": move.why} for move in lineage.moves],
            }
        )
        return
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("layer", "digest", "created", "tokens", "time"):
        table.add_column(column, justify="right" if column in ("tokens", "time") else "left", no_wrap=True)
    table.add_column("effect")
    for (entry, layer), effect in zip(reversed(lineage.layers), reversed(lineage.effects), strict=True):
        name = entry.name if entry.scale == 1.0 else f"{entry.name}:{entry.scale:g}"
        cost = (f"{layer.cost.tokens:,}", f"{layer.cost.seconds:.0f}s")
        table.add_row(name, entry.layer[7:15], layer.created[:10], *cost, _describe(layer, effect))
    base = lineage.stack.base
    table.add_row(f"{base.name}", base.digest[7:15], "(base)")
    show(table)


def _describe(layer: LayerConfig, effect: dict[str, tuple[Score, Score]]) -> str:
    """Return the change of the held-out loss, and of every suite that moved beyond its interval."""
    parts = []
    if layer.heldout_loss_before is not None and layer.heldout_loss_after is not None:
        parts.append(f"loss {layer.heldout_loss_before:.2f}→{layer.heldout_loss_after:.2f}")
    for suite, (before, after) in effect.items():
        if after.moved_from(before):
            parts.append(f"{suite} {(after.mean - before.mean) * 100:+.0f}")
    if effect and len(parts) == (layer.heldout_loss_after is not None):
        parts.append("no score moved")
    return ", ".join(parts)
