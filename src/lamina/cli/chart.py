"""``lamina chart``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lamina.cli.output import emit_json, print_columns, print_line, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.evaluate.relative import Pair

_MOST_BAD_ROWS = 10


def run(
    stack: Annotated[str | None, typer.Argument(help="ref, digest or base+layer+layer; else the branch")] = None,
    out: Annotated[Path, typer.Option(help="folder for the files")] = Path("charts"),
    reviews: Annotated[Path | None, typer.Option(help="chart a folder of FastChat reviews instead")] = None,
    reference: Annotated[
        str | None, typer.Option(help="with --reviews: the model that is 100 %; else the best")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Draw the scores after each layer, relative quality and quality for cost: PNG, SVG and one HTML report."""
    from lamina.errors import UsageError

    if reviews is not None:
        if stack is not None:
            raise UsageError("--reviews charts a folder and takes no stack", hint=f"lamina chart --reviews {reviews}")
        _chart_reviews(reviews, out, reference, as_json=json_)
        return
    if reference is not None:
        raise UsageError("--reference belongs to --reviews", hint="lamina chart --reviews DIR --reference MODEL")
    _chart_stack(stack, out, as_json=json_)


def _chart_stack(stack: str | None, out: Path, *, as_json: bool) -> None:
    from lamina.ops.chart import write_charts
    from lamina.ops.evaluate import evaluate, prefixes
    from lamina.ops.project import open_project

    project = open_project(Path(), TerminalProgress())
    config = project.stack(stack)
    matrix = evaluate(project, prefixes(config))
    pictures, page = write_charts(project, matrix, config, out, title=f"{project.base.pin.name}, layer by layer")
    if as_json:
        charts = [str(path) for path in pictures]
        emit_json({"chart": charts[0], "charts": charts, "report": str(page)} | matrix.to_dict())
    else:
        say("\n".join([*(f"{path}  {path.with_suffix('.svg')}" for path in pictures), str(page)]))


def _chart_reviews(folder: Path, out: Path, reference: str | None, *, as_json: bool) -> None:
    from lamina.ops.reviews import chart_reviews

    chart = chart_reviews(folder, out, reference)
    for row in chart.bad[:_MOST_BAD_ROWS]:
        say(f"left out: {row}")
    if chart.bad:
        more = "; --json lists all" if len(chart.bad) > _MOST_BAD_ROWS else ""
        say(f"{len(chart.bad)} rows left out, {chart.reviews} counted{more}")
    if as_json:
        emit_json(chart.to_dict())
        return
    print_line(f"relative quality, {chart.reference} = 100 %")
    rows = [(each.name, f"{each.percent:.0f} %", f"[{each.low:.0f}, {each.high:.0f}]") for each in chart.qualities]
    print_columns(rows, "lr")
    print_line("\nsums of scores, and who won")
    print_columns(
        [
            (f"{each.first} / {each.second}", f"{each.first_sum:g} / {each.second_sum:g}", _wins(each))
            for each in chart.pairs
        ],
        "lr",
    )
    print_line("\nBradley-Terry ratings")
    print_columns(
        [(each.name, f"{each.value:.0f}", f"[{each.low:.0f}, {each.high:.0f}]") for each in chart.ratings], "lr"
    )
    say(f"{chart.picture}  {chart.picture.with_suffix('.svg')}")


def _wins(pair: Pair) -> str:
    return f"{pair.wins} wins, {pair.losses} losses, {pair.ties} ties"
