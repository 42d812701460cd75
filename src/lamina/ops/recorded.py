"""Scores as they stand in the store: the matrix of the current branch and its charts, without measuring anything."""

from __future__ import annotations

from lamina.ops.chart import draw_charts
from lamina.ops.evaluate import find_suites, prefixes
from lamina.ops.project import Project
from lamina.ops.results import read_score
from lamina.records import Matrix, Score
from lamina.report.drawing import Drawing
from lamina.serve.page.workshop import Cell, Chart, Results
from lamina.stack.manifest import StackConfig

__all__ = ["recorded_charts", "recorded_results"]

_Row = tuple[Score | None, ...]


def recorded_results(project: Project) -> Results:
    """Return what is recorded of the branch's prefixes on the project's suites.

    Raises:
        DataError: if a suite's file is wrong.
    """
    stacks, suites, rows = _read(project, project.stack())
    cells = tuple(_cells(row, rows[place - 1] if place else None) for place, row in enumerate(rows))
    return Results(stacks=tuple(stacks), suites=tuple(suites), cells=cells)


def recorded_charts(project: Project) -> list[Chart]:
    """Return charts of the suites on which every prefix of the branch was measured; none if there is no such suite.

    Raises:
        DataError: if a suite's file is wrong.
    """
    stack = project.stack()
    matrix = _whole_columns(*_read(project, stack))
    if matrix is None:
        return []
    drawings = draw_charts(project, matrix, stack, title=f"{project.base.pin.name}, layer by layer")
    return [_chart(drawing) for drawing in drawings]


def _read(project: Project, stack: StackConfig) -> tuple[list[str], list[str], list[_Row]]:
    """Return the prefixes' names, the suites that any of them was measured on, and the scores."""
    suites = find_suites(project)
    labelled = prefixes(stack)
    rows = [tuple(read_score(project.store, each, suite.digest) for suite in suites.values()) for _, each in labelled]
    known = [place for place in range(len(suites)) if any(row[place] is not None for row in rows)]
    names = [list(suites)[place] for place in known]
    return [label for label, _ in labelled], names, [tuple(row[place] for place in known) for row in rows]


def _whole_columns(stacks: list[str], suites: list[str], rows: list[_Row]) -> Matrix | None:
    """Return the matrix of the suites on which every prefix was measured; None if there is none."""
    whole = [place for place in range(len(suites)) if all(row[place] is not None for row in rows)]
    if not whole:
        return None
    scores = tuple(tuple(score for place in whole if (score := row[place]) is not None) for row in rows)
    return Matrix(tuple(stacks), tuple(suites[place] for place in whole), scores)


def _cells(row: _Row, above: _Row | None) -> tuple[Cell | None, ...]:
    cells: list[Cell | None] = []
    for place, score in enumerate(row):
        if score is None:
            cells.append(None)
            continue
        other = above[place] if above else None
        moved = score.moved_from(other) if other else 0
        cells.append(Cell(mean=score.mean, low=score.low, high=score.high, items=score.n, moved=moved))
    return tuple(cells)


def _chart(drawing: Drawing) -> Chart:
    return Chart(
        name=drawing.name,
        title=drawing.title,
        caption=drawing.caption,
        wide=drawing.wide.decode(),
        narrow=drawing.narrow.decode(),
    )
