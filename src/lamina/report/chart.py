"""The staircase: what every layer did to every suite."""

from __future__ import annotations

from typing import Any

from lamina.records import Matrix, Score
from lamina.report.drawing import PALETTE, Drawing, clean, draw, spread

__all__ = ["draw_matrix"]

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STROKES = ("-", "--", ":")
_LABEL_GAP = 6.0
_MOST_TICKS = 24
_SIDEWAYS_AT = 60  # characters that stand side by side under the wide chart; half of them under the narrow one


def draw_matrix(matrix: Matrix, *, title: str) -> Drawing:
    """Return the chart of scores after each layer, one line for each suite, with 95 % intervals."""

    def paint(figure: Any, narrow: bool) -> None:
        axes = figure.subplots()
        _draw_lines(axes, matrix)
        _finish(axes, matrix, "" if narrow else title, narrow=narrow)

    rows = zip(matrix.stacks, matrix.scores, strict=True)
    told = [f"{name}: " + ", ".join(f"{each.suite} {each.mean:.0%}" for each in row) for name, row in rows]
    tall = 4.5 + 0.25 * max(0, len(matrix.suites) - 10)
    return draw(
        paint,
        name="scores",
        title=title,
        caption=f"Score on each suite after each layer, bars are 95 % intervals. {'; '.join(told)}.",
        wide=(7.2, tall),
        narrow=(4.2, tall),
    )


def _draw_lines(axes: Any, matrix: Matrix) -> None:
    spots = spread([score.mean * 100 for score in matrix.scores[-1]], _LABEL_GAP, 0.0, 100.0)
    for column, suite in enumerate(matrix.suites):
        scores = [row[column] for row in matrix.scores]
        shift = (column - (len(matrix.suites) - 1) / 2) * min(0.03, 0.3 / len(matrix.suites))
        _draw_line(axes, scores, column, shift)
        axes.annotate(
            f"{suite}  {scores[-1].mean * 100:.0f}",
            (1, spots[column]),
            xytext=(6, 0),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=PALETTE[column % len(PALETTE)],
            va="center",
            fontweight="bold",
            annotation_clip=False,
        )


def _draw_line(axes: Any, scores: list[Score], column: int, shift: float) -> None:
    colour, stroke = PALETTE[column % len(PALETTE)], _STROKES[column // len(PALETTE) % len(_STROKES)]
    places = [place + shift for place in range(len(scores))]
    means = [score.mean * 100 for score in scores]
    below = [max(0.0, mean - score.low * 100) for mean, score in zip(means, scores, strict=True)]
    above = [max(0.0, score.high * 100 - mean) for mean, score in zip(means, scores, strict=True)]
    axes.errorbar(places, means, yerr=[below, above], color=colour, elinewidth=1, capsize=2, linewidth=0, alpha=0.6)
    marker = _MARKERS[column % len(_MARKERS)]
    axes.plot(places, means, color=colour, marker=marker, linestyle=stroke, linewidth=2, markersize=6)


def _finish(axes: Any, matrix: Matrix, title: str, *, narrow: bool) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    every = -(-len(matrix.stacks) // _MOST_TICKS)
    ticks = range(0, len(matrix.stacks), every)
    names = [matrix.stacks[place] for place in ticks]
    room = _SIDEWAYS_AT // 2 if narrow else _SIDEWAYS_AT
    slanted = len(names) * (max(map(len, names)) + 1) > room
    axes.set_xticks(ticks, names, **({"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if slanted else {}))
    axes.set_xlim(-0.25, len(matrix.stacks) - 0.75)
    axes.set_ylim(-3, 103)
    axes.set_ylabel("score, %")
    clean(axes, "y")
