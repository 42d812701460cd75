"""``lamina chart``: the matrix as a picture and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamina import __version__
from lamina.model.machine import describe_machine
from lamina.ops.project import Project
from lamina.records import Matrix, SideBySide
from lamina.report.chart import draw_matrix
from lamina.report.html import write_report
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig

__all__ = ["write_charts"]


def write_charts(
    project: Project,
    matrix: Matrix,
    stack: StackConfig,
    folder: Path,
    *,
    title: str,
    sides: Sequence[SideBySide] = (),
) -> tuple[Path, Path]:
    """Write ``scores.png``, ``scores.svg`` and ``report.html`` into ``folder``; return picture and page."""
    png, svg, page = folder / "scores.png", folder / "scores.svg", folder / "report.html"
    draw_matrix(matrix, title=title, png=png, svg=svg)
    base = project.base.pin
    facts = {"base": f"{base.name} ({base.family}, {base.digest[7:19]})", "lamina": __version__}
    facts |= {key: str(value) for key, value in describe_machine().items()}
    layers = [_layer_row(project, entry.layer) for entry in stack.layers]
    write_report(page, title=title, matrix=matrix, svg=svg, layers=layers, facts=facts, sides=sides)
    return png, page


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
