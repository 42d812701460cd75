"""``lamina route``."""

from __future__ import annotations

import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli.output import emit_json, print_columns, print_line
from lamina.cli.progress import TerminalProgress
from lamina.errors import UsageError

if TYPE_CHECKING:
    from lamina.ops.routed import Routed

_WORDS = {"all": "all", "prefix": "all up to its own", "own": "its own alone"}


def run(
    enable: Annotated[bool, typer.Option("--enable", help="from now on, requests go through the router")] = False,
    disable: Annotated[bool, typer.Option("--disable", help="all layers answer every request again")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Train a router that picks layers for each request, and say whether it beats the sum of all layers."""
    if enable and disable:
        raise UsageError("--enable and --disable: expected one of them", hint="lamina route --enable")
    if enable or disable:
        _decide(enabled=enable, as_json=json_)
        return
    from lamina.ops.project import open_project
    from lamina.ops.routed import route

    project = open_project(Path(), TerminalProgress())
    found = route(project)
    if json_:
        emit_json({"branch": project.branch, **_record(found)})
    else:
        _print(found)


def _decide(*, enabled: bool, as_json: bool) -> None:
    from lamina.ops.route import decide_routing

    branch, decision = decide_routing(Path(), enabled=enabled)
    if as_json:
        emit_json({"branch": branch, **decision.model_dump(exclude={"format"})})
        return
    print_line(f"{branch}: {'requests go through the router' if enabled else 'all layers answer every request'}")
    print_line(textwrap.fill(f"its evaluation said: {decision.verdict}", 80))


def _record(found: Routed) -> dict[str, Any]:
    trained = found.trained
    return {
        "router": trained.digest,
        "seconds": trained.seconds,
        "train_rows": trained.train_rows,
        "accuracy": trained.accuracy,
        "confusion": trained.confusion,
        "least": trained.router.record.least,
        "reach": trained.router.record.reach,
        "skills": [
            {
                "name": choice.route.name,
                "choice": choice.route.choice,
                "layers": list(choice.route.layers),
                "losses": choice.losses,
                "p_value": choice.p_value,
                "rows": choice.rows,
            }
            for choice in trained.choices
        ],
        "suites": [asdict(suite) for suite in found.suites],
        "helps": found.helps,
        "verdict": found.verdict,
        "enabled": found.enabled,
    }


def _print(found: Routed) -> None:
    trained = found.trained
    heldout = sum(sum(row.values()) for row in trained.confusion.values())
    print_line(
        f"router {trained.digest[7:19]}: {trained.train_rows} prompts, {trained.seconds:.1f} s; "
        f"{100 * trained.accuracy:.1f} % of {heldout} held-out prompts right"
    )
    print_line("")
    for skill, row in trained.confusion.items():
        print_line(f"{skill}: {', '.join(f'{count} to {name}' for name, count in row.items() if count)}")
    print_line("")
    print_columns([("skill", "all", "prefix", "own", "best with"), *map(_losses, trained.choices)], "lrrr")
    print_line("held-out nats per token; what is chosen instead of all is shown to be better")
    print_line("")
    rows = [("suite", "items", "sum", "routed", "change")]
    for suite in found.suites:
        low, high = suite.change
        word = ", better" if suite.better else "" if suite.kept else ", a loss is not ruled out"
        change = f"{100 * low:+.1f} to {100 * high:+.1f}{word}"
        rows.append(
            (suite.suite, str(suite.items), f"{100 * suite.whole[0]:.1f}", f"{100 * suite.routed[0]:.1f}", change)
        )
    print_columns(rows, "lrrr")
    print_line("")
    print_line(textwrap.fill(found.verdict, 80))
    if found.helps and not found.enabled:
        print_line("`lamina route --enable` does so")


def _losses(choice: Any) -> tuple[str, str, str, str, str]:
    told = [f"{choice.losses[name]:.3f}" if name in choice.losses else "=" for name in ("all", "prefix", "own")]
    return choice.route.name, told[0], told[1], told[2], _WORDS[choice.route.choice]
