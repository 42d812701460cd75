"""Relative quality as bars, after the chart of the Vicuna blog: 100 % is the best one, or whoever was named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lamina.records import Quality
from lamina.report.drawing import PALETTE, Drawing, clean, draw

__all__ = ["draw_quality"]

_BAR_INCHES = 0.42
_FRAME_INCHES = 1.2


def draw_quality(bars: Sequence[Quality], *, name: str, title: str, of: str) -> Drawing:
    """Return the chart of the bars, the first on top; whiskers are 95 % intervals. ``of`` says what 100 % is.

    Bars lie, so that names of any length can be read at any width.
    """

    def paint(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        _draw_bars(axes, bars)
        axes.set_title("" if narrow else title, loc="left", fontweight="bold")
        axes.set_xlabel(f"% of {of}")

    told = ", ".join(f"{bar.name} {bar.percent:.0f} % ({bar.low:.0f} to {bar.high:.0f})" for bar in bars)
    tall = _FRAME_INCHES + _BAR_INCHES * max(2, len(bars))
    caption = f"Quality in percent of {of}, whiskers are 95 % intervals: {told}."
    return draw(paint, name=name, title=title, caption=caption, wide=(7.2, tall), narrow=(4.2, tall))


def _draw_bars(axes: Any, bars: Sequence[Quality]) -> None:
    places = list(range(len(bars)))
    percents = [bar.percent for bar in bars]
    whiskers = [
        [max(0.0, bar.percent - bar.low) for bar in bars],
        [max(0.0, bar.high - bar.percent) for bar in bars],
    ]
    colours = [PALETTE[0] if bar.percent < 100 else PALETTE[1] for bar in bars]
    axes.barh(places, percents, height=0.66, color=colours)
    for place, percent, below, above in zip(places, percents, *whiskers, strict=True):
        if below or above:  # what is 100 % by definition has none
            reach = [[below], [above]]
            axes.errorbar(percent, place, xerr=reach, fmt="none", ecolor="#333333", elinewidth=1.2, capsize=3)
    furthest = max(max(bar.high, bar.percent) for bar in bars)
    for place, bar in zip(places, bars, strict=True):
        axes.annotate(
            f"{bar.percent:.0f} %",
            (max(bar.high, bar.percent), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold",
        )
    axes.set_yticks(places, [bar.name for bar in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, furthest * 1.14)
    axes.tick_params(axis="y", length=0)
    clean(axes, "x")
