"""Intervals and paired tests. Pure functions of lists of per-item values in 0..1."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

__all__ = ["interval", "items_needed", "paired_p_value", "upper_loss"]

_Z_95 = 1.959963984540054
_Z_ONE_SIDED = 1.6448536269514722
_Z_POWER = 0.8416212335729143
_RESAMPLES = 2000


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, low and high of a 95 % interval.

    Values that are all 0 or 1 get Wilson's score interval (Wilson 1927; Agresti & Coull 1998); others the normal
    interval of the mean, cut to 0..1.

    Raises:
        ValueError: if there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("no values")
    mean = math.fsum(values) / n
    if all(value in (0.0, 1.0) for value in values):
        centre = (mean + _Z_95**2 / (2 * n)) / (1 + _Z_95**2 / n)
        half = _Z_95 / (1 + _Z_95**2 / n) * math.sqrt(mean * (1 - mean) / n + _Z_95**2 / (4 * n * n))
        return mean, max(0.0, centre - half), min(1.0, centre + half)
    variance = math.fsum((value - mean) ** 2 for value in values) / max(1, n - 1)
    half = _Z_95 * math.sqrt(variance / n)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def paired_p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the one-sided p-value of "after is better than before" on the same items.

    Values of 0 and 1 take the exact McNemar test (McNemar 1947): of the b + c items that changed, c became right; p is
    the chance of c or more under a fair coin. Other values take a sign-flip permutation test with a fixed seed.
    """
    changes = [new - old for old, new in zip(before, after, strict=True) if new != old]
    if not changes:
        return 1.0
    if all(change in (-1.0, 1.0) for change in changes):
        better = sum(change > 0 for change in changes)
        tail = sum(math.comb(len(changes), k) for k in range(better, len(changes) + 1))
        return float(tail / 2 ** len(changes))
    draw = random.Random(0)
    observed = math.fsum(changes)
    extreme = sum(
        math.fsum(change if draw.random() < 0.5 else -change for change in changes) >= observed
        for _ in range(_RESAMPLES)
    )
    return (extreme + 1) / (_RESAMPLES + 1)


def upper_loss(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the largest loss (before minus after) that the data do not rule out, at one-sided 95 %.

    For 0/1 values this is Agresti & Min's (2005) Wald interval for paired proportions with half a count added to each
    cell, which keeps its level where few items change; the plain one claims certainty when none does.
    """
    changes = [old - new for old, new in zip(before, after, strict=True)]
    n = len(changes)
    if all(change in (-1.0, 0.0, 1.0) for change in changes):
        worse = changes.count(1.0) + 0.5
        better = changes.count(-1.0) + 0.5
        total = n + 2
        loss = (worse - better) / total
        return loss + _Z_ONE_SIDED * math.sqrt(((worse + better) / total - loss * loss) / total)
    mean = math.fsum(changes) / n
    variance = math.fsum((change - mean) ** 2 for change in changes) / max(1, n - 1)
    return mean + _Z_ONE_SIDED * math.sqrt(variance / n)


def items_needed(drop: float, discordant: float) -> int:
    """Return how many paired items show a drop with power 80 % at one-sided 5 %.

    ``n = (z_a + z_b)^2 (p_d - d^2) / d^2``, where ``discordant`` p_d is the share of items whose outcome changes.

    Source: Connor 1987, Biometrics 43:207, with the alternative's variance in both terms.
    """
    return math.ceil((_Z_ONE_SIDED + _Z_POWER) ** 2 * (discordant - drop**2) / drop**2)
