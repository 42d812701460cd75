"""When a run is measured on rows it never trains on, which values did best there, and when to stop waiting.

A few held-out rows tell little: the lowest of many measurements is mostly chance. So a measurement counts as worse than
the best one only if the difference is beyond chance, row by row; else the later step is as good, and has learnt more.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lamina.records import TokenRow

__all__ = ["Best", "Watch", "plan_watch"]

_MEASUREMENTS = 16
_FEWEST_ROWS = 8
_SHARE_OF_TIME = 0.05
# Training a token takes a forward pass and about as much again backward, since no frozen weight gets a gradient.
_COST_OF_A_TOKEN = 0.5
_STANDARD_ERRORS = 2.0


@dataclass(frozen=True, slots=True)
class Watch:
    """Which held-out rows are measured, after which steps, and how many misses end the run.

    Attributes:
        rows: what is measured.
        steps: after which steps.
        patience: how many misses in a row end the run; 0 for none.
        first_pass: the step that ends the first pass. Misses up to there do not count: a row that is seen for the first
            time cannot be learnt by heart, and while the rate is high the loss goes up and down.
    """

    rows: tuple[TokenRow, ...] = ()
    steps: frozenset[int] = frozenset()
    patience: int = 0
    first_pass: int = 0

    def is_over(self, best: Best | None) -> bool:
        """Return whether as many measurements in a row as there is patience for were misses, and count."""
        if best is None or not self.patience:
            return False
        return sum(step > self.first_pass for step in best.misses) >= self.patience


@dataclass(slots=True)
class Best:
    """A copy of the values with the lowest held-out loss so far.

    Attributes:
        values: the flat vector of all factors, as it was after ``step``.
        losses: of each watched row, in nats over its trained tokens.
        misses: the steps after it whose measurements were worse beyond chance: those in a row up to the last one.
    """

    values: Tensor
    step: int
    losses: tuple[float, ...]
    misses: tuple[int, ...] = ()

    @property
    def loss(self) -> float:
        """The sum over the rows."""
        return sum(self.losses)

    def beats(self, losses: Sequence[float]) -> bool:
        """Return whether the same rows' later ``losses`` are worse beyond chance: by two standard errors, paired."""
        changes = [later - mine for later, mine in zip(losses, self.losses, strict=True)]
        error = statistics.stdev(changes) * math.sqrt(len(changes)) if len(changes) > 1 else 0.0
        return sum(changes) > _STANDARD_ERRORS * error


def plan_watch(heldout: Sequence[TokenRow], *, tokens: float, steps: int, patience: int, first_pass: int = 0) -> Watch:
    """Return the measurements that fit into a twentieth of the training time, evenly spread, the last at the end.

    Up to 16 of them, on as many of the held-out rows as that leaves room for, but on no fewer than eight: a minimum
    over fewer rows is mostly chance. Where not even two fit there is nothing to compare, and none is planned.

    Args:
        heldout: all held-out rows.
        tokens: how many tokens the whole run trains on.
        steps: how many steps the whole run has.
        patience: see ``Watch``.
        first_pass: see ``Watch``.
    """
    if len(heldout) < _FEWEST_ROWS:
        return Watch()
    budget = _SHARE_OF_TIME / _COST_OF_A_TOKEN * tokens
    a_row = sum(len(row.ids) for row in heldout) / len(heldout)
    count = min(len(heldout), max(_FEWEST_ROWS, int(budget / (_MEASUREMENTS * a_row))))
    rows = tuple(heldout[index * len(heldout) // count] for index in range(count))
    times = min(_MEASUREMENTS, steps, int(budget / sum(len(row.ids) for row in rows)))
    if times < 2:
        return Watch()
    measured = frozenset(round(number * steps / times) for number in range(1, times + 1))
    return Watch(rows, measured, patience, first_pass)
