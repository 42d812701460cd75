"""One self-contained HTML file: matrix, chart, answers, layers. No scripts, nothing fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from lamina.records import Matrix, SideBySide
from lamina.report.files import write_whole

__all__ = ["write_report"]


def write_report(
    path: Path,
    *,
    title: str,
    matrix: Matrix,
    svg: Path,
    layers: Sequence[Mapping[str, str]],
    facts: Mapping[str, str],
    sides: Sequence[SideBySide] = (),
) -> None:
    """Write the report. Everything but our own chart is escaped.

    Args:
        path: the file.
        title: its heading.
        matrix: the scores.
        svg: the chart that ``draw_matrix`` wrote.
        layers: one mapping per layer, the same keys in each; they become a table.
        facts: base, machine and versions.
        sides: answers before and after.
    """
    template = SandboxedEnvironment(autoescape=True).from_string(
        files("lamina.report").joinpath("report.html.j2").read_text("utf-8")
    )
    drawing = svg.read_text("utf-8")
    chart = Markup(drawing[drawing.index("<svg") :])
    rendered = template.render(title=title, matrix=matrix, chart=chart, layers=layers, facts=facts, sides=sides)
    write_whole(path, rendered.encode())
