"""From scores to figures: every one is a weighted sum of suites' scores, so all get their error the same way.

The items' part of an error is that of the weighted sums item by item, items of different suites apart, seeds averaged
first; it is paired, since all runs answer the same items. The seeds' part is the spread between them over the root of
their number. The two add as squares; with one seed only the items' part is known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lamina.evaluate.transfer import measure_transfer
from lamina.records import Matrix, Score

__all__ = ["Estimate", "Terms", "average", "backward", "change", "estimate", "minus", "transfer_of"]

# Weights of scores, by row and column of a matrix.
Terms = list[tuple[float, Score]]
_Z_95 = 1.959964


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error; ``seeds`` are its values seed by seed."""

    value: float
    error: float
    seeds: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return value, 95 % interval, standard error and the seeds' values."""
        half = _Z_95 * self.error
        return {
            "value": self.value,
            "low": self.value - half,
            "high": self.value + half,
            "error": self.error,
            "seeds": list(self.seeds),
        }


def estimate(seeds: Sequence[Terms]) -> Estimate:
    """Return the figure that the same weighted sum gives in each seed."""
    sums = [_item_sums(terms) for terms in seeds]
    values = tuple(sum(float(np.nanmean(each)) for each in suites.values()) for suites in sums)
    variance = 0.0
    for suite in sums[0]:
        mean = np.mean([suites[suite] for suites in sums], axis=0)
        kept = mean[~np.isnan(mean)]
        variance += float(kept.var(ddof=1)) / len(kept) if len(kept) > 1 else 0.0
    if len(values) > 1:
        variance += float(np.var(values, ddof=1)) / len(values)
    return Estimate(math.fsum(values) / len(values), math.sqrt(variance), values)


def average(matrix: Matrix, row: int, suites: Sequence[str]) -> Terms:
    """Return the terms of a row's mean over suites."""
    return [(1 / len(suites), matrix.scores[row][matrix.suites.index(name)]) for name in suites]


def change(matrix: Matrix, suites: Sequence[str]) -> Terms:
    """Return the terms of the mean change from the first row to the last."""
    return minus(average(matrix, -1, suites), average(matrix, 0, suites))


def backward(matrix: Matrix, *, own: bool) -> Terms:
    """Return the terms of backward transfer, as ``measure_transfer`` defines it.

    With ``own`` all that happened to a skill after its first layer counts: its updates too. Without, what each of its
    own updates changed is taken out, and what remains is what the layers of other skills did to it.
    """
    top = len(matrix.stacks) - 1
    starts = {name: matrix.stacks.index(f"+{name}") for name in matrix.suites if f"+{name}" in matrix.stacks}
    old = {name: start for name, start in starts.items() if start < top}
    terms: Terms = []
    for name, start in old.items():
        column = matrix.suites.index(name)
        rows = [(1.0, top), (-1.0, start)]
        if not own:
            updates = [place for place, label in enumerate(matrix.stacks) if label == f"+{name}.2"]
            rows += [pair for place in updates for pair in ((-1.0, place), (1.0, place - 1))]
        terms += [(weight / len(old), matrix.scores[row][column]) for weight, row in rows]
    return terms


def minus(terms: Terms, others: Terms) -> Terms:
    """Return the terms of the difference."""
    return [*terms, *((-weight, score) for weight, score in others)]


def transfer_of(matrix: Matrix, height: int | None = None) -> Mapping[str, float | None]:
    """Return what ``measure_transfer`` says of the matrix, or of its first ``height`` stages."""
    rows = slice(None if height is None else height + 1)
    found = measure_transfer(Matrix(matrix.stacks[rows], matrix.suites, matrix.scores[rows]))
    if found is None:
        return {}
    return {
        "average": found.average_accuracy,
        "backward": found.backward,
        "forward": found.forward,
        "forgetting": found.forgetting,
    }


def _item_sums(terms: Terms) -> dict[str, NDArray[np.float64]]:
    sums: dict[str, NDArray[np.float64]] = {}
    for weight, score in terms:
        values = weight * np.asarray(score.values, dtype=np.float64)
        sums[score.suite] = sums[score.suite] + values if score.suite in sums else values
    return sums
