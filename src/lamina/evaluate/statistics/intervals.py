"""Intervals of a suite's score. Pure functions of per-item values in 0..1."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from lamina.evaluate.statistics.distributions import normal_quantile, student_quantile

__all__ = ["Values", "design_effect", "group", "interval", "standard_error", "wilson"]

Values = NDArray[np.float64]
_Z_95 = normal_quantile(0.975)


def interval(values: Sequence[float], clusters: Sequence[Hashable] = ()) -> tuple[float, float, float]:
    """Return mean, low and high of a 95 % interval.

    Values that are all 0 or 1 get Wilson's score interval; where items share a cluster, with n divided by the design
    effect (Korn & Graubard 1998, Survey Methodology 24:193) and Student's t for the clusters' number. Other values get
    the interval of the mean by (clustered) standard error and t, cut to 0..1.

    Args:
        values: one for each item.
        clusters: what each item shares with others, such as its template or passage; empty where nothing is shared.

    Raises:
        ValueError: if there are no values.
    """
    if not len(values):
        raise ValueError("no values")
    scores = np.asarray(values, dtype=np.float64)
    groups = group(clusters, len(scores))
    mean = math.fsum(values) / len(values)
    count = int(groups.max()) + 1
    right_or_wrong = bool(np.isin(scores, (0.0, 1.0)).all())
    independent = count == len(scores) and right_or_wrong
    quantile = _Z_95 if independent or count == 1 else student_quantile(0.975, count - 1)
    if right_or_wrong:
        low, high = wilson(mean, len(scores) / design_effect(scores, groups), quantile)
        return mean, min(low, mean), max(high, mean)
    half = quantile * standard_error(scores, groups)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def wilson(mean: float, n: float, z: float = _Z_95) -> tuple[float, float]:
    """Return the score interval of a share ``mean`` of ``n`` independent items; ``n`` need not be whole.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209; recommended by Newcombe 1998 and Agresti & Coull 1998.
    """
    centre = (mean + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(mean * (1 - mean) / n + z**2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def standard_error(values: Values, groups: NDArray[np.int64]) -> float:
    """Return the standard error of the mean, items of one cluster counted as dependent.

    ``(1/n) sqrt(G/(G-1) sum_g (sum_{i in g} (s_i - mean))^2)`` for G clusters; with one item each this is the ordinary
    ``sqrt(s^2 / n)``. A single cluster tells nothing about the spread between clusters: infinity.

    Source: Miller 2024, arXiv:2411.00640, equation 4, with the factor G/(G-1) of Cameron & Miller 2015 for few
    clusters.
    """
    sums = np.bincount(groups, weights=values - values.mean())
    if len(sums) < 2:
        return math.inf
    return math.sqrt(float(sums @ sums) * len(sums) / (len(sums) - 1)) / len(values)


def design_effect(values: Values, groups: NDArray[np.int64]) -> float:
    """Return by how much clusters inflate the variance of the mean, at least 1: n items tell as much as n / this.

    Where all values are equal nothing can be estimated, and the worst is taken: items of one cluster are copies of one
    another, ``sum_g m_g^2 / n``. So it is for a single cluster.
    """
    sizes = np.bincount(groups)
    copies = float(sizes @ sizes) / len(values)
    apart = standard_error(values, np.arange(len(values)))
    if len(sizes) == 1 or len(values) == len(sizes) or apart == 0:
        return copies
    return max(1.0, (standard_error(values, groups) / apart) ** 2)


def group(clusters: Sequence[Hashable], n: int) -> NDArray[np.int64]:
    """Return each item's cluster as a number from 0; without clusters every item is its own.

    Raises:
        ValueError: if there are clusters, but not one for each item.
    """
    if not len(clusters):
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{len(clusters)} clusters for {n} items")
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.int64)
