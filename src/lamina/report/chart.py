"""The staircase: what every layer did to every suite, as PNG and SVG."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

from lamina.records import Matrix
from lamina.report.files import write_whole

__all__ = ["draw_matrix"]

# Okabe & Ito's palette, which people of every colour vision can tell apart; markers differ as well.
_STYLES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#CC79A7", "D"), ("#E69F00", "v"), ("#56B4E9", "P"))
_LEAST_GAP = 6.0


def draw_matrix(matrix: Matrix, *, title: str, png: Path, svg: Path) -> None:
    """Write the chart twice. The SVG's bytes depend on the matrix and title alone.

    Raises:
        OSError: if a file cannot be written.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": "lamina", "font.size": 11, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(7.2, 4.5), layout="constrained")
        axes = figure.subplots()
        _draw_lines(axes, matrix)
        _finish(axes, matrix, title)
        for path, options in (
            (png, {"dpi": 160, "format": "png"}),
            (svg, {"format": "svg", "metadata": {"Date": None}}),
        ):
            buffer = io.BytesIO()
            figure.savefig(buffer, **options)
            write_whole(path, buffer.getvalue())


def _draw_lines(axes: Any, matrix: Matrix) -> None:
    places = list(range(len(matrix.stacks)))
    spots = _spread([matrix.scores[-1][column].mean * 100 for column in range(len(matrix.suites))])
    for column, suite in enumerate(matrix.suites):
        colour, marker = _STYLES[column % len(_STYLES)]
        scores = [row[column] for row in matrix.scores]
        means = [score.mean * 100 for score in scores]
        below = [max(0.0, mean - score.low * 100) for mean, score in zip(means, scores, strict=True)]
        above = [max(0.0, score.high * 100 - mean) for mean, score in zip(means, scores, strict=True)]
        shift = (column - (len(matrix.suites) - 1) / 2) * 0.03
        shifted = [place + shift for place in places]
        axes.errorbar(
            shifted, means, yerr=[below, above], color=colour, elinewidth=1, capsize=2, linewidth=0, alpha=0.6
        )
        axes.plot(shifted, means, color=colour, marker=marker, linewidth=2, markersize=6)
        label = f"{suite}  {means[-1]:.0f}"
        axes.annotate(label, (places[-1] + 0.12, spots[column]), color=colour, va="center", fontweight="bold")


def _finish(axes: Any, matrix: Matrix, title: str) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xticks(range(len(matrix.stacks)), matrix.stacks)
    axes.set_xlim(-0.25, len(matrix.stacks) - 1 + 0.95)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("score, % (bars: 95 % interval)")
    axes.grid(axis="y", linewidth=0.5, alpha=0.4)
    axes.spines[["top", "right"]].set_visible(False)


def _spread(heights: list[float]) -> list[float]:
    """Return label heights near ``heights``, no two closer than the least gap."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    spots = list(heights)
    for lower, upper in pairwise(order):
        spots[upper] = max(spots[upper], spots[lower] + _LEAST_GAP)
    overshoot = max(0.0, max(spots) - 100.0)
    if overshoot:
        spots[order[-1]] -= overshoot
        for upper, lower in pairwise(reversed(order)):
            spots[lower] = min(spots[lower], spots[upper] - _LEAST_GAP)
    return spots
