"""Quality for cost: what stacks score against what training them took, with the frontier that none beats on both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from lamina.records import CostPoint
from lamina.report.drawing import PALETTE, Drawing, clean, draw, spread

__all__ = ["draw_pareto", "frontier", "scale_costs"]

_LABEL_GAP = 6.0
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
        ("training, operations", lambda point: point.flops),
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
    return draw(paint, name="cost", title=title, caption=caption, wide=(9.0, 3.8), narrow=(4.2, 9.6))


def _draw_panel(axes: Any, points: Sequence[CostPoint], cost: Callable[[CostPoint], float]) -> None:
    best = frontier(points, cost)
    costs = [cost(point) for point in points]
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
    scale_costs(axes, costs)
    axes.set_ylim(-3, 108)
    _label(axes, points, costs)
    clean(axes, "both")


def scale_costs(axes: Any, costs: Sequence[float]) -> None:
    """Set the cost axis: even, or in powers of ten beside zero where the costs lie decades apart."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    most = max(costs) or 1.0
    least = min((cost for cost in costs if cost > 0), default=most)
    if most / least > _LOG_FROM:
        axes.set_xscale("symlog", linthresh=least)
        powers = range(math.ceil(math.log10(least)), math.floor(math.log10(most)) + 1)
        axes.xaxis.set_major_locator(FixedLocator([0.0, *(10.0**power for power in powers[:: -(-len(powers) // 4)])]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(-0.05 * most, most * 1.05)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))


def _short(value: float) -> str:
    return f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


def _label(axes: Any, points: Sequence[CostPoint], costs: Sequence[float]) -> None:
    """Write each name above its point, where the frontier never runs, towards the side where there is room."""
    from matplotlib.patheffects import withStroke

    spots = spread([point.score * 100 for point in points], _LABEL_GAP, 0.0, 100.0)
    shares = axes.transData.transform([(value, 0.0) for value in costs])[:, 0]
    middle = axes.transAxes.transform((0.5, 0.0))[0]
    for point, value, spot, share in zip(points, costs, spots, shares, strict=True):
        right = share <= middle
        axes.annotate(
            point.name,
            (value, spot),
            xytext=(6 if right else -6, 4),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom",
            fontsize=9,
            path_effects=[withStroke(linewidth=3, foreground="white")],
        )
