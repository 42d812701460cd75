"""The staircase with cost on the x axis: lamina's layers against training anew on everything at each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream import SKILLS

from lamina.report.drawing import PALETTE, clean, draw
from lamina.report.files import write_whole

__all__ = ["draw_staircase"]

_LINES = (
    ("retraining", "training anew on everything", PALETTE[1], "s", "--"),
    ("lamina", "lamina: a layer for what is new", PALETTE[0], "o", "-"),
)


def draw_staircase(staircase: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Write the chart of a run's ``staircase`` as PNG."""

    def paint(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        for key, label, colour, marker, stroke in _LINES:
            _draw_line(axes, staircase[key], label, colour, marker, stroke)
        skills = [point for point in staircase["lamina"] if point["stage"] in SKILLS]
        for point in skills:
            _label(axes, point, point["stage"], "right")
        updates = len(staircase["lamina"]) - len(skills)
        if updates:  # too close to one another for a label each
            _label(axes, staircase["lamina"][-1], f"and {updates} updates", "left")
        axes.set_xlabel("spent on training so far, PFLOP")
        axes.set_ylabel("mean score of the four skills, %")
        axes.margins(x=0.12)
        axes.legend(frameon=False, loc="lower right")
        clean(axes, "both")

    title = "Kept up to date: what it took"
    made = draw(paint, name="update", title=title, caption=title, wide=(8, 4.6), narrow=(4.2, 4.6))
    write_whole(path, made.png)


def _label(axes: Any, point: dict[str, Any], text: str, side: str) -> None:
    axes.annotate(
        text,
        (point["flops"] / 1e15, 100 * point["score"]),
        xytext=(-4 if side == "right" else 4, 7),
        textcoords="offset points",
        ha=side,
        fontsize=8,
        color=PALETTE[0],
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
    )


def _draw_line(axes: Any, points: list[dict[str, Any]], label: str, colour: str, marker: str, stroke: str) -> None:
    costs = [point["flops"] / 1e15 for point in points]
    means = [100 * point["score"] for point in points]
    errors = [[100 * (point["score"] - point["low"]) for point in points] for _ in range(2)]
    axes.errorbar(costs, means, yerr=errors, color=colour, elinewidth=1, capsize=2, linewidth=0, alpha=0.5)
    axes.plot(costs, means, color=colour, marker=marker, linestyle=stroke, drawstyle="steps-post", label=label)
