"""``lamina diff``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, print_line, show
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.lora.compare import Comparison, MapComparison
    from lamina.stack.difference import StackDifference


def run(
    a: Annotated[str | None, typer.Argument(help="a stack, or a layer; else the branch")] = None,
    b: Annotated[str | None, typer.Argument(help="another; else what the branch held before")] = None,
    top: Annotated[int, typer.Option(help="layers: how many maps to list", min=1)] = 10,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line, with all maps")] = False,
) -> None:
    """Tell two stacks apart, layer by layer, or two layers, map by map."""
    from lamina.errors import UsageError
    from lamina.ops.diff import compare_stacks, names_a_stack

    kinds = [names_a_stack(Path(), name) for name in (a, b) if name is not None]
    if all(kinds):
        _stacks(*compare_stacks(Path(), a, b), as_json=json_)
        return
    if a is None or b is None or any(kinds):
        raise UsageError(
            f"'{a if b is None or not kinds[0] else b}' is a layer; expected two stacks or two layers",
            hint="name another layer to compare it with, or a stack with it: base+LAYER",
        )
    from lamina.ops.compare import compare_layers
    from lamina.ops.project import open_project

    _layers((a, b), *compare_layers(open_project(Path(), TerminalProgress()), a, b), top=top, as_json=json_)


def _stacks(old: str, new: str, difference: StackDifference, *, as_json: bool) -> None:
    from lamina.stack.layers import term_of

    if as_json:
        emit_json(
            {
                "old": old,
                "new": new,
                "bases": [pin.digest for pin in difference.bases] if difference.bases else None,
                "removed": [entry.model_dump() for entry in difference.removed],
                "added": [entry.model_dump() for entry in difference.added],
                "rescaled": [
                    {"name": each.entry.name, "layer": each.entry.layer, "old": each.old, "new": each.new}
                    for each in difference.rescaled
                ],
                "moved": [
                    {"name": each.entry.name, "layer": each.entry.layer, "old": each.old, "new": each.new}
                    for each in difference.moved
                ],
            }
        )
        return
    lines = [f"--- {old}", f"+++ {new}"]
    if difference.bases:
        was, now = difference.bases
        lines.append(f"! base {was.name} ({was.digest[7:15]}) -> {now.name} ({now.digest[7:15]})")
    lines += [f"- {term_of(entry.name, entry.scale):24} {entry.layer[7:15]}" for entry in difference.removed]
    lines += [f"+ {term_of(entry.name, entry.scale):24} {entry.layer[7:15]}" for entry in difference.added]
    for each in difference.rescaled:
        lines.append(f"~ {each.entry.name:24} {each.entry.layer[7:15]}  scale {each.old:g} -> {each.new:g}")
    for place in difference.moved:
        lines.append(f"> {place.entry.name:24} {place.entry.layer[7:15]}  place {place.old} -> {place.new}")
    if difference.is_empty:
        lines.append("no difference")
    print_line("\n".join(lines))


def _layers(names: tuple[str, str], a: str, b: str, comparison: Comparison, *, top: int, as_json: bool) -> None:
    import dataclasses

    if as_json:
        emit_json({"a": a, "b": b, **dataclasses.asdict(comparison)})
        return
    cosine = "undefined" if comparison.cosine is None else f"{comparison.cosine:+.3f}"
    print_line(f"a = {names[0]} ({a[7:15]}), size {comparison.norm_a:.3g}")
    print_line(f"b = {names[1]} ({b[7:15]}), size {comparison.norm_b:.3g}; cosine {cosine}")
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("map", no_wrap=True)
    for column in ("a", "b", "cosine", "writes", "reads"):
        table.add_column(column, justify="right", no_wrap=True)
    largest = sorted(comparison.maps, key=lambda each: -(each.norm_a**2 + each.norm_b**2))
    for each in largest[:top]:
        table.add_row(*_row(each))
    show(table)
    print_line("a, b: sizes beside the base's weight; writes, reads: least angle between them")
    if len(largest) > top:
        print_line(f"{len(largest) - top} more maps: --top {len(largest)}, or --json")


def _row(each: MapComparison) -> tuple[str, ...]:
    def size(norm: float, relative: float | None) -> str:
        return f"{norm:.3g}" if relative is None else f"{relative:.2%}"

    def least(angles: tuple[float, ...]) -> str:
        return f"{angles[0]:.0f}°" if angles else "-"

    return (
        each.path.removeprefix("model."),
        size(each.norm_a, each.relative_a),
        size(each.norm_b, each.relative_b),
        "-" if each.cosine is None else f"{each.cosine:+.3f}",
        least(each.column_angles),
        least(each.row_angles),
    )
