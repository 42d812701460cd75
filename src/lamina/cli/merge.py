"""``lamina merge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli import recipe as flags
from lamina.cli.output import say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.merge import MergeResult


def run(
    layers: Annotated[list[str], typer.Argument(help="layers trained apart on the same parent")],
    name: Annotated[str, typer.Option("--as", help="the new layer's name")],
    method: Annotated[str, typer.Option(help="concat, ties, dare, knots or iso-c")] = "concat",
    dev: Annotated[str | None, typer.Option(help="the suite to weigh them by; else their held-out rows")] = None,
    guard: flags.Guard = None,
    accept: flags.Accept = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Join layers that were trained apart, weighed against one another; the gate decides as for a trained one."""
    from lamina.ops.merge import merge
    from lamina.ops.project import open_project
    from lamina.refs import check_name

    check_name(name)
    project = open_project(Path(), TerminalProgress())
    with project.working("merge"):
        result = merge(project, layers, name=name, method=method, dev=dev, guards=guard or (), accept=accept)
    if not json_:
        _describe(layers, result)
    flags.report(result.admission, as_json=json_, more=_record(result))


def _record(result: MergeResult) -> dict[str, object]:
    weighed = result.weighed
    return {
        "method": result.method,
        "scales": list(weighed.scales),
        "density": weighed.density,
        "objective": {
            "of": result.objective,
            "at_one": weighed.found.start_value,
            "found": weighed.found.value,
            "trials": weighed.found.evaluations,
        },
        "relative_error": weighed.lost.total if weighed.lost else 0.0,
    }


def _describe(layers: list[str], result: MergeResult) -> None:
    weighed = result.weighed
    if result.method == "concat":
        terms = " + ".join(f"{scale:g} {name}" for name, scale in zip(layers, weighed.scales, strict=True))
    else:
        kept = "" if weighed.density is None else f", {weighed.density:.0%} of entries kept"
        terms = f"{weighed.scales[0]:g} x {result.method}({', '.join(layers)}){kept}"
    say(terms)
    say(
        f"{result.objective}: {weighed.found.start_value:.4f} with all at 1, {weighed.found.value:.4f} found in "
        f"{weighed.found.evaluations} trials"
    )
    if weighed.lost is not None:
        say(f"back in factors: relative error {weighed.lost.total:.2%}")
