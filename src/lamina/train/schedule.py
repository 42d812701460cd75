"""Which rows go into which step, and how fast each step learns."""

from __future__ import annotations

import math
import random
from itertools import pairwise

__all__ = ["learning_rate", "plan_steps"]


def plan_steps(row_count: int, *, batch_rows: int, epochs: float, seed: int) -> list[list[int]]:
    """Return the rows of every optimiser step: each epoch in its own order, drawn from ``seed`` and the epoch alone.

    A step never crosses an epoch; a fractional last epoch takes the first part of its order. Being a pure function, the
    plan needs no state to resume from.
    """
    steps: list[list[int]] = []
    for epoch in range(math.ceil(epochs)):
        order = list(range(row_count))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        share = min(1.0, epochs - epoch)
        order = order[: max(1, round(share * row_count))]
        # Windows of equal size (to one row), so that the last step of an epoch is no outlier.
        count = math.ceil(len(order) / batch_rows)
        bounds = [round(index * len(order) / count) for index in range(count + 1)]
        steps += [order[start:end] for start, end in pairwise(bounds)]
    return steps


def learning_rate(step: int, steps: int, *, peak: float, warmup: float, final_rate: float) -> float:
    """Return the learning rate of ``step`` (from 1): linear warm-up over a share of the steps, then half a cosine.

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, equation 5, without restarts and down to ``final_rate * peak``.
    """
    rising = max(1, round(warmup * steps))
    if step <= rising:
        return peak * step / rising
    done = (step - rising) / max(1, steps - rising)
    return peak * (final_rate + (1 - final_rate) * 0.5 * (1 + math.cos(math.pi * done)))
