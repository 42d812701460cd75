"""The staircase with cost on the x axis: what keeping a model current took, beside retraining it at every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina.records import CostStep
from lamina.report.drawing import PALETTE, Drawing, clean, draw, spread
from lamina.report.pareto import scale_costs

__all__ = ["draw_cost_staircase"]

_LABEL_GAP = 7.0


def draw_cost_staircase(steps: Sequence[CostStep], *, title: str, unit: str) -> Drawing:
    """Return the chart: the mean score after each layer over all that was spent up to there, ours and by retraining.

    What a retrained model would score is not known: its points stand at the heights of ours.

    Args:
        steps: the stack's points, the bare base first; costs are sums from the first on.
        title: stands above the wide chart.
        unit: of the costs, for the axis.
    """

    def paint(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        _draw_steps(axes, steps)
        scale_costs(axes, [cost for step in steps for cost in (step.spent, step.retrained)])
        _label(axes, steps, narrow=narrow)
        axes.set_ylim(-3, 108)
        axes.set_xlabel(f"spent so far, {unit}")
        axes.set_ylabel("mean score, %")
        axes.set_title("" if narrow else title, loc="left", fontweight="bold")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1 if narrow else 2, frameon=False, fontsize=9)
        clean(axes, "both")

    told = "; ".join(
        f"{step.name}: {step.score:.1%} for {step.spent:.2g}, retraining {step.retrained:.2g}" for step in steps
    )
    caption = (
        f"Mean score over the suites against all that was spent up to there, {unit}; bars are 95 % intervals. Squares "
        f"are what a full training at every point would have taken, as high as ours since the score is not measured. "
        f"{told}."
    )
    return draw(paint, name="cost-staircase", title=title, caption=caption, wide=(7.2, 4.6), narrow=(4.2, 5.0))


def _draw_steps(axes: Any, steps: Sequence[CostStep]) -> None:
    heights = [step.score * 100 for step in steps]
    ours, theirs = [step.spent for step in steps], [step.retrained for step in steps]
    errors = [
        [max(0.0, step.score - step.low) * 100 for step in steps],
        [max(0.0, step.high - step.score) * 100 for step in steps],
    ]
    axes.step(theirs, heights, where="post", color=PALETTE[1], linestyle="--", linewidth=1.5)
    axes.plot(
        theirs,
        heights,
        color=PALETTE[1],
        marker="s",
        markerfacecolor="white",
        zorder=4,
        markersize=7,
        linewidth=0,
        label="full training at every point (score assumed)",
    )
    axes.step(ours, heights, where="post", color=PALETTE[0], linewidth=2)
    axes.errorbar(ours, heights, yerr=errors, color=PALETTE[0], elinewidth=1, capsize=2, linewidth=0)
    axes.plot(
        ours,
        heights,
        color=PALETTE[0],
        zorder=4,
        marker="o",
        markersize=7,
        linewidth=0,
        label="lamina, everything counted",
    )


def _label(axes: Any, steps: Sequence[CostStep], *, narrow: bool) -> None:
    """Write each layer's name above our point, and how many times as much the last retraining point is."""
    from matplotlib.patheffects import withStroke

    around = [withStroke(linewidth=3, foreground="white")]
    spots = spread([step.score * 100 for step in steps], _LABEL_GAP, 0.0, 100.0)
    for step, spot in zip(steps, spots, strict=True):
        axes.annotate(
            step.name,
            (step.spent, spot),
            xytext=(6, 4),
            textcoords="offset points",
            fontsize=8 if narrow else 9,
            path_effects=around,
        )
    last = steps[-1]
    if last.spent:
        axes.annotate(
            f"{last.retrained / last.spent:.1f} x",
            (last.retrained, last.score * 100),
            xytext=(-8, -16),
            textcoords="offset points",
            ha="right",
            color=PALETTE[1],
            fontweight="bold",
            path_effects=around,
        )
