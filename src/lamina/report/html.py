"""One self-contained HTML file: matrix, charts, answers, layers. No scripts, nothing fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

from lamina.records import Matrix, SideBySide
from lamina.report.drawing import Drawing
from lamina.report.files import write_whole

__all__ = ["write_report"]


def write_report(
    path: Path,
    *,
    title: str,
    matrix: Matrix,
    drawings: Sequence[Drawing],
    layers: Sequence[Mapping[str, str]],
    facts: Mapping[str, str],
    sides: Sequence[SideBySide] = (),
) -> None:
    """Write the report. Everything but our own charts is escaped.

    Args:
        path: the file.
        title: its heading.
        matrix: the scores.
        drawings: the charts, in order.
        layers: one mapping per layer, the same keys in each; they become a table.
        facts: base, machine and versions.
        sides: answers before and after.
    """
    template = SandboxedEnvironment(autoescape=True).from_string(
        files("lamina.report").joinpath("report.html.j2").read_text("utf-8")
    )
    charts = [
        {
            "title": each.title,
            "caption": each.caption,
            "wide": _inline(each.wide, f"{each.name}-wide"),
            "narrow": _inline(each.narrow, f"{each.name}-narrow"),
        }
        for each in drawings
    ]
    rendered = template.render(title=title, matrix=matrix, charts=charts, layers=layers, facts=facts, sides=sides)
    write_whole(path, rendered.encode())


def _inline(svg: bytes, prefix: str) -> Markup:
    """Return the drawing as an element of the page, its ids made its own: the browser would mix up equal ones."""
    text = svg.decode("utf-8")
    text = text[text.index("<svg") :]
    text = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", text)
    # The caption beside it says the same in words; a screen reader would spell out glyphs.
    return Markup(text.replace("<svg ", '<svg aria-hidden="true" ', 1))
