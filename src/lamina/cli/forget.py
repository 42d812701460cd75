"""``lamina forget``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.output import emit_json, print_columns, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.erase import Checked
    from lamina.ops.forget import Forgotten, Step, Wish
    from lamina.ops.traces import Holders


def run(
    targets: Annotated[list[str], typer.Argument(metavar="LAYER|FILE…", help="a layer, or files of rows that must go")],
    rows: Annotated[str | None, typer.Option(help="only these rows of the file: 3,17-20")] = None,
    removed: Annotated[
        bool, typer.Option("--removed", help="what the files no longer hold, not what they hold")
    ] = False,
    data: Annotated[
        list[Path] | None, typer.Option(help="files that hold the rows that stay; may be given again")
    ] = None,
    suite: Annotated[list[str] | None, typer.Option(help="also score this suite before and after")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="train every layer above again, carry none")] = False,
    purge: Annotated[bool, typer.Option("--purge", help="also cut the history that holds them: no undo")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and do nothing")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Take data out of the model for good: drop the layer, or train again, without the rows, each layer that had them.

    Rows are matched by content. They are never trained on again, whatever files they stand in.
    """
    from lamina.ops.erase import check, require_suites
    from lamina.ops.erase import purge as clear
    from lamina.ops.forget import forget, plan
    from lamina.ops.project import open_project
    from lamina.ops.traces import find_holders
    from lamina.ops.update import find_data
    from lamina.ops.wishes import make_wish

    project = open_project(Path(), TerminalProgress())
    wish = make_wish(project, targets, numbers=rows, removed=removed)
    if not (wish.rows or wish.whole):
        say(f"{wish.what}: nothing to forget")
        if json_:
            emit_json({"branch": project.branch, "what": wish.what, "rows": 0, "layers": []})
        return
    if dry_run:
        _tell_plan(wish, plan(project, wish, strict=strict), as_json=json_)
        return
    suites = require_suites(project, suite or [])
    named = [path for target in targets if (path := Path(target)).is_file()]  # their other rows may be needed
    result = forget(project, wish, paths=[*named, *find_data(project, data or [])], strict=strict)
    checked = check(project, wish, result, suites)
    holders = clear(project, wish) if purge else find_holders(project.store, wish.rows, wish.whole)
    if json_:
        emit_json(_record(wish, result, checked, holders))
        return
    _tell_steps(wish, result.steps)
    _tell_check(checked)
    _tell_holders(holders)


def _tell_plan(wish: Wish, steps: list[Step], *, as_json: bool) -> None:
    if as_json:
        emit_json({"what": wish.what, "rows": len(wish.rows), "layers": [_step(step) for step in steps]})
    else:
        _tell_steps(wish, steps)


def _tell_steps(wish: Wish, steps: list[Step] | tuple[Step, ...]) -> None:
    say(f"forget {wish.what}")
    if all(step.action == "keep" for step in steps):
        say("no layer of this branch has seen them; none will be trained on them")
    told = {"keep": "stays", "drop": "dropped", "retrain": "trained again", "carry": "carried as it is"}
    lines = [[step.entry.name, told[step.action], _because(step)] for step in steps]
    if lines:
        print_columns(lines, "ll")


def _because(step: Step) -> str:
    parts = [f"has seen {step.trace.seen} of the rows"] if step.trace.seen else []
    parts += ["may have rehearsed them"] if step.trace.rehearsed else []
    return "; ".join([*parts, *([step.why] if step.why else [])])


def _tell_check(checked: Checked) -> None:
    if checked.membership:
        head = ["nats per token", "these rows", "held-out rows", "told apart"]
        lines = [
            [one.stack, f"{one.rows:.3f}", *("" if x is None else f"{x:.3f}" for x in (one.others, one.told_apart))]
            for one in checked.membership
        ]
        print_columns([head, *lines], "lrr")
        say("told apart: 0.5 is chance, as for rows never trained on; towards 1 they are known")
    else:
        say("the words of the rows are not here, so whether they are gone cannot be measured")
    for before, after in checked.scores:
        say(f"{before.suite}: {before.mean:.1%} -> {after.mean:.1%}")


def _tell_holders(holders: Holders) -> None:
    for name in holders.branches:
        say(f"branch {name} still holds them: `lamina switch {name}` and forget there, or `lamina branch -d {name}`")
    for name in holders.tags:
        say(f"tag {name} still holds them: lamina tag --delete {name}")
    if holders.pasts:
        say(f"the history of {', '.join(holders.pasts)} still holds them, for undo: --purge cuts it")
    elif holders.layers and not holders.branches and not holders.tags:
        say(f"{len(holders.layers)} layers that nothing reaches still hold them: --purge removes them")
    if not holders.layers:
        say("nothing in this store holds them any more; what was pushed or exported does")


def _record(wish: Wish, result: Forgotten, checked: Checked, holders: Holders) -> dict[str, Any]:
    import dataclasses

    from lamina.stack.layers import stack_digest

    return {
        "branch": result.branch,
        "what": wish.what,
        "rows": len(wish.rows),
        "before": stack_digest(result.before),
        "after": stack_digest(result.after),
        "layers": [_step(step) for step in result.steps],
        "cost": result.cost.model_dump(),
        "membership": [dataclasses.asdict(one) for one in checked.membership],
        "suites": {before.suite: [before.mean, after.mean] for before, after in checked.scores},
        "holders": dataclasses.asdict(holders),
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "name": step.entry.name,
        "action": step.action,
        "layer": None if step.now is None else step.now.layer,
        "was": step.entry.layer,
        "seen": step.trace.seen,
        "rehearsed": step.trace.rehearsed,
        "why": step.why,
    }
