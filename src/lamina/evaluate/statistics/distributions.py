"""The normal and Student's t distribution, from the standard library alone."""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = ["normal_cdf", "normal_quantile", "student_cdf", "student_quantile"]

_NORMAL = NormalDist()
_SMALLEST = 1e-300
_MOST_TERMS = 10_000


def normal_cdf(x: float) -> float:
    """Return the chance that a standard normal variable is at most ``x``."""
    return math.erfc(-x / math.sqrt(2)) / 2


def normal_quantile(share: float) -> float:
    """Return the inverse of ``normal_cdf``; ``share`` lies strictly between 0 and 1."""
    return _NORMAL.inv_cdf(share)


def student_cdf(t: float, freedom: float) -> float:
    """Return the chance that a t variable of ``freedom`` degrees (inf: normal) is at most ``t``."""
    if math.isinf(freedom) or math.isinf(t):
        return normal_cdf(t)
    whole = freedom + t * t
    if t * t < freedom:  # the middle directly: as one minus the tails it would lose its last digits
        tail = 0.5 - _beta_share(t * t / whole, 0.5, freedom / 2) / 2
    else:
        tail = _beta_share(freedom / whole, freedom / 2, 0.5) / 2
    return 1 - tail if t > 0 else tail


def student_quantile(share: float, freedom: float) -> float:
    """Return the inverse of ``student_cdf``, by bisection to the last digits."""
    if math.isinf(freedom):
        return normal_quantile(share)
    low, high = -1.0, 1.0
    while student_cdf(low, freedom) > share:
        low *= 2
    while student_cdf(high, freedom) < share:
        high *= 2
    while high - low > 1e-13 * max(1.0, abs(low)):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if student_cdf(middle, freedom) < share else (low, middle)
    return (low + high) / 2


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b).

    Source: the continued fraction DLMF 8.17.22, evaluated by Lentz's method.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x) - math.log(a)
    )
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            fraction *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * fraction


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _SMALLEST else _SMALLEST
