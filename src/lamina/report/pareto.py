"""Quality for cost: what stacks score against what training them took, with the frontier that none beats on both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lamina.records import CostPoint
from lamina.report.drawing import PALETTE, Drawing, clean, draw, spread

__all__ = ["draw_pareto", "frontier"]

_LOG_FROM = 30.0  # largest over smallest cost from which a linear axis would squeeze the small ones together


def frontier(points: Sequence[CostPoint], cost: Callable[[CostPoint], float]) -> list[CostPoint]:
    """Return the points that no other beats: none is as cheap and better, or as good and cheaper. Cheapest first."""
    best: list[CostPoint] = []
    for point in sorted(points, key=lambda each: (cost(each), -each.score)):
        if not best or point.score > best[-1].score:
            best.append(point)
    return best


def draw_pareto(points: Sequence[CostPoint], *, title: str, currency: str) -> Drawing:
    """Return the chart: a panel each for operations, money and parameters. Filled points lie on the frontier."""
    panels: tuple[tuple[str, Callable[[CostPoint], float]], ...] = (
        ("training, floating-point operations", lambda point: point.flops),
        (f"training, {currency} (estimate)", lambda point: point.money),
        ("parameters in the layers", lambda point: float(point.parameters)),
    )

    def paint(figure: Any, narrow: bool) -> None:
        grid = figure.subplots(len(panels) if narrow else 1, 1 if narrow else len(panels), sharey=True, squeeze=False)
        for axes, (label, cost) in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, points, cost)
            axes.set_xlabel(label)
        for axes in grid[:, 0]:
            axes.set_ylabel("mean score, %")
        if not narrow:
            figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=13)

    told = "; ".join(
        f"{point.name}: {point.score:.1%} for {point.flops:.2g} operations, {point.tokens:,} tokens, "
        f"{currency}{point.money:.2g}, {point.parameters:,} parameters"
        for point in points
    )
    caption = f"Mean score over the suites against cost, bars are 95 % intervals, filled points are unbeaten. {told}."
    return draw(paint, name="cost", title=title, caption=caption, wide=(11.0, 4.2), narrow=(4.2, 9.6))


def _draw_panel(axes: Any, points: Sequence[CostPoint], cost: Callable[[CostPoint], float]) -> None:
    best = frontier(points, cost)
    costs = [cost(point) for point in points]
    paid = [value for value in costs if value > 0]
    if paid and max(paid) / min(paid) > _LOG_FROM:
        axes.set_xscale("symlog", linthresh=min(paid))
    edge = max(costs) or 1.0
    # The frontier is what the best score is for a budget: it stays until the next point is affordable.
    axes.step(
        [*(cost(point) for point in best), edge],
        [*(point.score * 100 for point in best), best[-1].score * 100],
        where="post",
        color=PALETTE[0],
        linewidth=1.5,
        alpha=0.7,
    )
    for point in points:
        on = point in best
        axes.errorbar(
            cost(point),
            point.score * 100,
            yerr=[[max(0.0, point.score - point.low) * 100], [max(0.0, point.high - point.score) * 100]],
            marker="o" if on else "s",
            color=PALETTE[0] if on else PALETTE[1],
            markerfacecolor=PALETTE[0] if on else "white",
            markersize=7,
            elinewidth=1,
            capsize=2,
        )
    _label(axes, points, costs)
    if axes.get_xscale() == "linear":
        axes.set_xlim(-0.05 * edge, edge * 1.05)
        axes.ticklabel_format(axis="x", style="sci", scilimits=(-2, 4))
    axes.set_ylim(-3, 103)
    clean(axes, "both")


def _label(axes: Any, points: Sequence[CostPoint], costs: Sequence[float]) -> None:
    """Write each name beside its point, towards the side where there is room, clear of its neighbours."""
    spots = spread([point.score * 100 for point in points], 6.0, 0.0, 100.0)
    edge = max(costs) or 1.0
    for point, value, spot in zip(points, costs, spots, strict=True):
        right = value <= edge / 2
        axes.annotate(
            point.name,
            (value, spot),
            xytext=(8 if right else -8, 0),
            textcoords="offset points",
            ha="left" if right else "right",
            va="center",
            fontsize=9,
        )
