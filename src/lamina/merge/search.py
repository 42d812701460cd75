"""A search for a few scalars by looking left and right, for objectives that are slow and have no gradient.

Source: Hooke & Jeeves 1961, J. ACM 8:212, "direct search": exploring moves along each axis, then a leap the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Found", "pattern_search"]

Point = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """The best point seen, its value, the start's value, and how many points were measured."""

    point: Point
    value: float
    start_value: float
    evaluations: int


def pattern_search(
    objective: Callable[[Point], float],
    start: Sequence[float],
    *,
    low: float,
    high: float,
    step: float = 0.5,
    smallest: float = 0.1,
    budget: int = 40,
) -> Found:
    """Return the point with the least objective that is found from ``start``, the same one every time.

    Args:
        objective: what to make small; measured once for each point, since it is slow.
        start: where to begin.
        low: the least each coordinate may be.
        high: the most.
        step: the first distance looked to each side; it is halved when nothing near is better.
        smallest: the search ends below this step.
        budget: the most points to measure, the start included.
    """
    known: dict[Point, float] = {}

    def look(point: Point) -> float:
        if point not in known:
            if len(known) >= budget:
                return float("inf")
            known[point] = objective(point)
        return known[point]

    best = tuple(start)
    first = value = look(best)
    while step >= smallest and len(known) < budget:
        before = best
        best, value = _explore(look, best, value, step, low, high)
        if best == before:
            step /= 2
            continue
        leap = tuple(_clip(2 * new - old, low, high) for new, old in zip(best, before, strict=True))
        if (leapt := look(leap)) < value:
            best, value = leap, leapt
    return Found(best, value, first, len(known))


def _explore(
    look: Callable[[Point], float], best: Point, value: float, step: float, low: float, high: float
) -> tuple[Point, float]:
    for axis in range(len(best)):
        for move in (step, -step):
            tried = (*best[:axis], _clip(best[axis] + move, low, high), *best[axis + 1 :])
            if (found := look(tried)) < value:
                best, value = tried, found
                break
    return best, value


def _clip(number: float, low: float, high: float) -> float:
    return max(low, min(high, number))
