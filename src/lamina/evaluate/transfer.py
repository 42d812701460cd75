"""What a stack gained and forgot as it grew: average accuracy, backward and forward transfer, forgetting."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.records import Matrix, Transfer

__all__ = ["measure_transfer"]


def measure_transfer(matrix: Matrix) -> Transfer | None:
    """Return the transfer metrics of a matrix whose rows are a stack's prefixes; None if no suite belongs to a layer.

    Row 0 is the base, row i the stack after its i-th layer, R[i, j] the score there on suite j; H is the last row. A
    suite belongs to the layer of its name (rows are called ``+name``); s_j is the first row that holds that layer:

    - average accuracy: ``mean_j R[H, j]``
    - backward transfer: ``mean_j (R[H, j] - R[s_j, j])`` over skills that something was stacked on, s_j < H
    - forward transfer: ``mean_j (R[s_j - 1, j] - R[0, j])`` over skills with a layer below them, s_j > 1
    - forgetting: ``mean_j (max_{1 <= l < H} R[l, j] - R[H, j])`` over the same skills as backward transfer
    - general change: ``mean_k (R[H, k] - R[0, k])`` over suites that belong to no layer

    Source: Lopez-Paz & Ranzato 2017 (GEM), arXiv:1706.08840, for the first three; Chaudhry et al. 2018,
    arXiv:1801.10112, section 3 for forgetting; Wang et al. 2023 (TRACE), arXiv:2310.06762, for the change of general
    ability. A stage here is a layer, so that updates of a skill are stages too.
    """
    means = [[score.mean for score in row] for row in matrix.scores]
    starts = {
        place: matrix.stacks.index(f"+{suite}")
        for place, suite in enumerate(matrix.suites)
        if f"+{suite}" in matrix.stacks
    }
    if not starts:
        return None
    top = len(means) - 1
    general = [place for place in range(len(matrix.suites)) if place not in starts]
    old = [(place, start) for place, start in starts.items() if start < top]
    return Transfer(
        skills=tuple(matrix.suites[place] for place in starts),
        average_accuracy=_mean([means[top][place] for place in starts]),
        backward=_mean([means[top][place] - means[start][place] for place, start in old]),
        forward=_mean([means[start - 1][place] - means[0][place] for place, start in starts.items() if start > 1]),
        forgetting=_mean([max(row[place] for row in means[1:top]) - means[top][place] for place, _ in old]),
        general=_mean([means[top][place] - means[0][place] for place in general]),
    )


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
