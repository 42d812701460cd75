"""``lamina squash``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.squash import SquashResult


def run(
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    rank: Annotated[int | None, typer.Option(help="rank of the new layer; else exact, at the sum of ranks")] = None,
    energy: Annotated[float | None, typer.Option(help="instead: share of each map's squares to keep, 0..1")] = None,
    start: Annotated[str | None, typer.Option("--from", help="the lowest layer that goes in; else all")] = None,
    name: Annotated[str, typer.Option("--as", help="the new layer's name")] = "squashed",
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Make one layer out of several: exact, or with --rank smaller, and say what that lost."""
    from lamina.ops.project import open_project
    from lamina.ops.squash import squash
    from lamina.refs import check_name

    check_name(name)
    project = open_project(Path(), TerminalProgress())
    with project.working("squash"):
        result = squash(project, stack, name=name, rank=rank, energy=energy, start=start)
    if json_:
        emit_json(_record(result))
    else:
        _describe(result)


def _record(result: SquashResult) -> dict[str, object]:
    import dataclasses

    from lamina.stack.layers import stack_digest

    return {
        "layer": result.layer,
        "name": result.stack.layers[-1].name,
        "stack": stack_digest(result.stack),
        "old_stack": stack_digest(result.old),
        "branch": result.branch,
        "rank": [result.rank_before, result.rank_after],
        "relative_error": result.lost.total if result.lost else 0.0,
        "modules": result.lost.modules if result.lost else {},
        "heldout_loss": list(result.losses) if result.losses else None,
        "logit_drift": dataclasses.asdict(result.drift) if result.drift else None,
    }


def _describe(result: SquashResult) -> None:
    from lamina.stack.layers import name_of, stack_digest

    say(f"{name_of(result.old)} -> {name_of(result.stack)}")
    error = f"relative error {result.lost.total:.2%}" if result.lost else "exact, nothing lost"
    say(f"rank {result.rank_before} -> {result.rank_after}, {error}")
    if result.losses is not None and result.drift is not None:
        before, after = result.losses
        say(f"held-out loss {before:.4f} -> {after:.4f} nats per token")
        say(
            f"logits moved by {result.drift.mean_error:.2g} on average, {result.drift.max_error:.2g} at most; "
            f"{result.drift.agreement:.2%} same choice"
        )
    else:
        say("no held-out rows to measure on: `lamina eval` scores it on suites")
    if result.branch is not None:
        say(f"{result.branch} holds it now; `lamina undo` takes it back")
    else:
        say(f"stack {stack_digest(result.stack)[7:19]} is written; the current branch held something else and stays")
