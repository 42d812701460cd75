"""``lamina log``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.output import emit_json, print_columns, print_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lamina.ops.ledger import Entry
    from lamina.ops.lineage import LogRow, Spent

_HEAD = ["layer", "digest", "tokens", "time", "Wh", "cost", "effect"]
_ALIGN = "llrrrr"


def run(
    stack: Annotated[
        str | None, typer.Argument(help="ref, digest or base+layer+layer; else the current branch")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="the stacks of all branches and tags, as a tree")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="all that was spent, beside a full retraining")] = False,
    candidates: Annotated[
        bool, typer.Option("--candidates", help="layers in no branch, and what the gate said")
    ] = False,
    moves: Annotated[bool, typer.Option("--moves", help="how the branch came here, newest first")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """List the layers of a stack, top first, with what they cost and did."""
    if cost:
        _show_bill(stack, as_json=json_)
        return
    if candidates:
        _show_candidates(as_json=json_)
        return
    if every:
        _show_tree(as_json=json_)
        return
    from lamina.ops.lineage import name_refs, read_lineage

    lineage = read_lineage(Path(), stack)
    if json_:
        emit_json(
            {
                "base": lineage.stack.base.model_dump(),
                "layers": [_as_dict(row) for row in lineage.rows],
                "branch": lineage.branch,
                "refs": lineage.refs,
                "tags": sorted(lineage.tags),
                "moves": [{"new": move.new, "when": move.when, "why": move.why} for move in lineage.moves],
            }
        )
        return
    if moves:
        for number, move in enumerate(lineage.moves):
            print_line(f"~{number}  {move.new[7:15]}  {move.when[:16].replace('T', ' ')}  {move.why}")
        return
    base = lineage.stack.base
    foot = [" ".join(["○", base.name, *name_refs(lineage.base_refs)]), base.digest[7:15], "", "", "", "", "(base)"]
    rows = [_HEAD, *(_cells(row, lineage.currency) for row in reversed(lineage.rows)), foot]
    if len(lineage.rows) > 1:
        total = lineage.rows[0].spent
        for row in lineage.rows[1:]:
            total += row.spent
        rows.append(["  total", "", *_spent(total, lineage.currency), ""])
    print_columns(rows, _ALIGN)


def _show_bill(stack: str | None, *, as_json: bool) -> None:
    from lamina.ops.bill import read_bill

    bill = read_bill(Path(), stack)
    if as_json:
        emit_json(dataclasses.asdict(bill) | {"shares": [line.share for line in bill.lines]})
        return
    rows = [["layer", "step", "tokens", "FLOPs", "time", "Wh", "cost"]]
    for line in reversed(bill.lines):
        rows += [
            [line.layer if not place else "", *_bill_cells(each, bill.currency)]
            for place, each in enumerate(line.steps)
        ]
        share = "" if line.share is None else f", {line.share:.0%} of it spent"
        rows.append(["", f"retrained{share}", *_bill_cells(line.retrained, bill.currency)[1:]])
    for name, entry in (("(base)", bill.base), ("(not in this stack)", bill.rest)):
        if entry.tokens:
            rows.append([name, *_bill_cells(entry, bill.currency)])
    rows.append(["total", *_bill_cells(bill.spent, bill.currency)])
    rows.append(["", "retrained at every point", *_bill_cells(bill.retrained, bill.currency)[1:]])
    print_columns(rows, "llrrrr")


def _bill_cells(entry: Entry, currency: str) -> list[str]:
    tokens, seconds, watt_hours, money = _spent(entry, currency)
    return [entry.step, tokens, f"{entry.flops:.1e}" if entry.flops else "?", seconds, watt_hours, money]


def _show_candidates(*, as_json: bool) -> None:
    from lamina.ops.verdicts import read_candidates

    found = read_candidates(Path())
    if as_json:
        emit_json(
            {
                "candidates": [
                    {"name": layer.name, "digest": digest, "created": layer.created}
                    | {"judgements": [dataclasses.asdict(each) for each in judgements]}
                    for digest, layer, judgements in found
                ]
            }
        )
        return
    for digest, layer, judgements in found:
        print_line(f"{layer.name}  {digest[7:19]}  {layer.created[:16].replace('T', ' ')}")
        for each in judgements:
            done = f"{each.remedy}: " if each.remedy else ""
            said = "accepted" if each.verdict.accepted else f"refused: {each.verdict.refusals}"
            print_line(f"    {done}{said}")
        if not judgements:
            print_line("    never judged, or the record is gone")


def _show_tree(*, as_json: bool) -> None:
    from lamina.ops.lineage import LogRow, read_tree

    tree = read_tree(Path())
    if as_json:
        rows = [_as_dict(line) for line in tree.lines if isinstance(line, LogRow)]
        candidates = [{"name": layer.name, "digest": digest} for digest, layer in tree.candidates]
        emit_json({"layers": rows, "candidates": candidates})
        return
    lines = [[line, *[""] * 6] if isinstance(line, str) else _cells(line, tree.currency) for line in tree.lines]
    print_columns([_HEAD, *lines], _ALIGN)
    if tree.candidates:
        listed = ", ".join(f"{layer.name} ({digest[7:15]})" for digest, layer in tree.candidates)
        print_line(f"in no branch or tag: {listed}")


def _cells(row: LogRow, currency: str) -> list[str]:
    from lamina.ops.lineage import name_refs
    from lamina.stack.layers import term_of

    name = [row.graph, term_of(row.entry.name, row.entry.scale), *name_refs(row.refs)]
    return [" ".join(name), row.entry.layer[7:15], *_spent(row.spent, currency), _describe(row)]


def _spent(spent: Spent | Entry, currency: str) -> Sequence[str]:
    money = f"{spent.money:.2f}" if spent.money >= 0.1 else f"{spent.money:.4f}"
    return f"{spent.tokens:,}", f"{spent.seconds:.0f}s", f"{spent.watt_hours:.1f}", f"{currency}{money}"


def _describe(row: LogRow) -> str:
    """Return where the layer comes from, the change of the held-out loss, and each suite beyond its interval."""
    from lamina.stack.lineage import OVERRULED

    layer, parts = row.layer, []
    if row.overruled:
        parts.append(f"{OVERRULED} {row.overruled}")
    if row.moved is not None:
        parts.append(f"moved: {row.moved}")
    if layer.origin is not None:
        parts.append(layer.origin.method)
    if layer.heldout_loss_before is not None and layer.heldout_loss_after is not None:
        parts.append(f"loss {layer.heldout_loss_before:.2f}→{layer.heldout_loss_after:.2f}")
    told = [
        f"{suite} {(after.mean - before.mean) * 100:+.0f}"
        for suite, (before, after) in row.effect.items()
        if after.moved_from(before)
    ]
    return ", ".join([*parts, *(told or (["no score moved"] if row.effect else []))])


def _as_dict(row: LogRow) -> dict[str, Any]:
    return {
        "name": row.entry.name,
        "digest": row.entry.layer,
        "scale": row.entry.scale,
        "parent": row.layer.parent,
        "moved": row.entry.moved,
        "origin": None if row.layer.origin is None else row.layer.origin.model_dump(),
        "created": row.layer.created,
        "cost": row.layer.cost.model_dump()
        | {"watt_hours_estimate": row.spent.watt_hours, "money_estimate": row.spent.money},
        "heldout_loss": [row.layer.heldout_loss_before, row.layer.heldout_loss_after],
        "overruled": row.overruled or None,
        "effect": {name: [before.mean, after.mean] for name, (before, after) in row.effect.items()},
        "refs": list(row.refs),
    }
