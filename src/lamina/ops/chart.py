"""``lamina chart``: recorded results as pictures and a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lamina import __version__
from lamina.errors import DataError
from lamina.evaluate.relative import relative_quality, relative_scores
from lamina.evaluate.reviews import Review
from lamina.model.machine import describe_machine
from lamina.ops.bill import bill_of
from lamina.ops.costs import mean_score, point_of
from lamina.ops.evaluate import prefixes
from lamina.ops.project import Project
from lamina.ops.results import judge_folder, read_score
from lamina.records import CostPoint, CostStep, Matrix, SideBySide
from lamina.report.chart import draw_matrix
from lamina.report.drawing import Drawing
from lamina.report.html import write_report
from lamina.report.pareto import draw_pareto
from lamina.report.quality import draw_quality
from lamina.report.staircase import draw_cost_staircase
from lamina.stack.layers import read_layer, read_stack, stack_digest
from lamina.stack.lineage import list_refs
from lamina.stack.manifest import StackConfig

__all__ = ["draw_charts", "write_charts"]


def write_charts(
    project: Project,
    matrix: Matrix,
    stack: StackConfig,
    folder: Path,
    *,
    title: str,
    sides: Sequence[SideBySide] = (),
) -> tuple[tuple[Path, ...], Path]:
    """Write every chart that the records allow, as PNG and SVG, and ``report.html``; return the PNGs and the page.

    ``scores``: each suite after each layer. ``quality``: stacks in percent of the best. ``cost``: score against what
    training took, also of other branches and tags that were measured on the same suites. ``cost-staircase``: score
    against all that the ledger holds, beside a full training at every point. ``judged``: in percent of the
    best by a judge's grades, where `lamina judge --single` has been run on the branch's stacks.
    """
    drawings = draw_charts(project, matrix, stack, title=title)
    base = project.base.pin
    facts = {"base": f"{base.name} ({base.family}, {base.digest[7:19]})", "lamina": __version__}
    facts |= {key: str(value) for key, value in describe_machine().items()}
    layers = [_layer_row(project, entry.layer) for entry in stack.layers]
    pictures = tuple(each.write(folder)[0] for each in drawings)
    page = folder / "report.html"
    write_report(page, title=title, matrix=matrix, drawings=drawings, layers=layers, facts=facts, sides=sides)
    return pictures, page


def draw_charts(project: Project, matrix: Matrix, stack: StackConfig, *, title: str) -> list[Drawing]:
    """Return every chart that the records allow: ``write_charts`` says which there are."""
    drawings = [draw_matrix(matrix, title=title)]
    if any(score.mean > 0 for row in matrix.scores for score in row):
        bars = relative_scores(matrix.stacks, matrix.scores)
        drawings.append(draw_quality(bars, name="quality", title="Relative quality", of="the best stack"))
    points = _cost_points(project, matrix, stack)
    if len(points) > 1:
        drawings.append(draw_pareto(points, title="Quality for cost", currency=project.settings.cost.currency))
    return [*drawings, *_staircase(project, matrix, stack), *_judged(project, stack)]


def _cost_points(project: Project, matrix: Matrix, stack: StackConfig) -> list[CostPoint]:
    """Return the points of the stack's prefixes, and of other refs' stacks that were measured on the same suites."""
    stacks = [prefix for _, prefix in prefixes(stack)]
    found = list(zip(matrix.stacks, stacks, matrix.scores, strict=True))
    seen = {stack_digest(each) for each in stacks}
    items = [score.items_digest for score in matrix.scores[0]]
    for ref, digest in list_refs(project.store).items():
        other = read_stack(project.store, digest)
        if digest in seen or other.base != stack.base:
            continue
        seen.add(digest)
        scores = [read_score(project.store, other, digest) for digest in items]
        if all(score is not None for score in scores):
            found.append((ref, other, tuple(score for score in scores if score is not None)))
    points = []
    for name, each, row in found:
        point = point_of(project, name, each, row)
        if point is None:
            project.progress.note(
                f"{name}: not in the chart of costs, since what a layer from elsewhere took is unknown"
            )
        else:
            points.append(point)
    return points


def _staircase(project: Project, matrix: Matrix, stack: StackConfig) -> list[Drawing]:
    """Return the chart of the stack's points over what was spent up to each, if anything is known to have been."""
    bill = bill_of(project.store, stack, project.settings.cost)
    by_flops = all(line.spent.flops and line.retrained.flops for line in bill.lines)
    spent = retrained = 0.0
    steps = []
    for height, (name, scores) in enumerate(zip(matrix.stacks, matrix.scores, strict=True)):
        if height:
            line = bill.lines[height - 1]
            spent += line.spent.flops if by_flops else line.spent.tokens
            retrained += line.retrained.flops if by_flops else line.retrained.tokens
        mean, half = mean_score(scores)
        low, high = max(0.0, mean - half), min(1.0, mean + half)
        steps.append(CostStep(name=name, score=mean, low=low, high=high, spent=spent, retrained=retrained))
    if not (spent and retrained):
        return []
    unit = "operations" if by_flops else "tokens"
    return [draw_cost_staircase(steps, title="Kept current, or trained anew each time", unit=unit)]


def _judged(project: Project, stack: StackConfig) -> list[Drawing]:
    """Return the chart of the grades that the judge asked last gave to the stack's prefixes, if it gave any."""
    charted = {stack_digest(prefix) for _, prefix in prefixes(stack)}
    paths = sorted(judge_folder(project.store).glob("grades-*.json"), key=lambda path: path.stat().st_mtime)
    records = [json.loads(path.read_text("utf-8")) for path in paths]
    records = [record for record in records if charted.issuperset(record["digests"])]
    names: dict[str, str] = {}
    reviews = []
    for record in records:
        if record["judge"] != records[-1]["judge"]:
            continue
        first, second = (names.setdefault(*pair) for pair in zip(record["digests"], record["stacks"], strict=True))
        reviews += [
            Review(f"{record['what']} {name}", first, second, ours, theirs) for name, ours, theirs in record["grades"]
        ]
    if not reviews:
        return []
    try:
        bars = relative_quality(reviews)[::-1]
    except DataError as error:
        project.progress.note(f"no chart of the judge's grades: {error.message}")
        return []
    return [draw_quality(bars, name="judged", title="Relative quality by a judge's grades", of="the best stack")]


def _layer_row(project: Project, digest: str) -> dict[str, str]:
    layer = read_layer(project.store, digest)
    return {
        "layer": layer.name,
        "digest": digest[7:19],
        "rows in files": str(sum(source.rows for source in layer.data)),
        "tokens": f"{layer.cost.tokens:,}",
        "training": f"{layer.cost.seconds:.0f} s",
        "rank": str(layer.rank),
    }
