"""One chart in the forms a report needs: PNG and SVG for people's slides, a wide and a narrow drawing for the page."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from lamina.report.files import write_whole

__all__ = ["PALETTE", "Drawing", "clean", "draw", "spread"]

# Okabe & Ito's palette without its yellow, which white paper swallows; markers and strokes differ as well.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_FONT_POINTS = 11
_PNG_DPI = 160

# What paints a chart: figure, and whether it is the narrow one.
Painter = Callable[[Any, bool], None]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A chart. ``wide`` is for screens of 640 pixels or more, ``narrow`` for phones; both are SVG, ``png`` is wide.

    ``title`` stands above it, ``caption`` below and is what a screen reader says.
    """

    name: str
    title: str
    caption: str
    wide: bytes
    narrow: bytes
    png: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``NAME.png`` and ``NAME.svg`` and return their paths.

        Raises:
            OSError: if a file cannot be written.
        """
        png, svg = folder / f"{self.name}.png", folder / f"{self.name}.svg"
        write_whole(png, self.png)
        write_whole(svg, self.wide)
        return png, svg


def draw(
    paint: Painter,
    *,
    name: str,
    title: str,
    caption: str,
    wide: tuple[float, float],
    narrow: tuple[float, float],
) -> Drawing:
    """Return the chart that ``paint`` makes, at two sizes in inches. The bytes of the SVG depend on the input alone."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": f"lamina-{name}", "font.size": _FONT_POINTS, "font.family": "DejaVu Sans"}
    made: list[bytes] = []
    with mpl.rc_context(settings):
        for size, is_narrow in ((wide, False), (narrow, True)):
            figure = Figure(figsize=size, layout="constrained")
            paint(figure, is_narrow)
            made.append(_saved(figure, format="svg", metadata={"Date": None}))
            if not is_narrow:
                png = _saved(figure, format="png", dpi=_PNG_DPI)
    return Drawing(name, title, caption, made[0], made[1], png)


def clean(axes: Any, grid: str) -> None:
    """Take away what says nothing, and put a faint grid along ``grid``."""
    axes.grid(axis=grid, linewidth=0.5, alpha=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def spread(heights: Sequence[float], gap: float, lowest: float, highest: float) -> list[float]:
    """Return heights near the given ones, no two closer than ``gap``, within the bounds where there is room for all."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    spots = list(heights)
    for lower, upper in pairwise(order):
        spots[upper] = max(spots[upper], spots[lower] + gap)
    if spots and spots[order[-1]] > highest:
        spots[order[-1]] = highest
        for upper, lower in pairwise(reversed(order)):
            spots[lower] = min(spots[lower], spots[upper] - gap)
    shortfall = max(0.0, lowest - min(spots, default=lowest))
    return [spot + shortfall for spot in spots]


def _saved(figure: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()
