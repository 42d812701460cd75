"""The win rate that answers of equal length would have.

A logistic regression of the verdicts on a constant and the difference of lengths; the rate is read off at difference
zero. AlpacaEval 2 has a third term, how hard each instruction is for the baseline, fitted over a leaderboard of models;
with two stacks there is nothing to fit it to, and it is left out.

Source: Dubois et al. 2024, arXiv:2404.04475, equations 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["length_controlled"]

_RESAMPLES = 1000
_STEPS = 50
_RIDGE = 0.01  # on the length's weight only: verdicts that length alone explains would send it to infinity
_Array = NDArray[np.float64]


def length_controlled(values: Sequence[float], gaps: Sequence[float]) -> tuple[float, float, float]:
    """Return the length-controlled win rate and its 95 % bootstrap interval.

    ``P(win) = logistic(theta + phi * tanh(gap / std(gap)))``, with the rate ``logistic(theta)``. Where all lengths are
    alike it is the plain win rate.

    Args:
        values: 1 for a win, 0 for a loss, 0.5 for a tie; at least one.
        gaps: by how much the answer is longer than the other's, in any unit.

    Raises:
        ValueError: if there are no values, or not as many gaps.
    """
    if not values or len(values) != len(gaps):
        raise ValueError(f"{len(values)} values and {len(gaps)} gaps")
    wins, lengths = np.asarray([values], dtype=np.float64), np.asarray([gaps], dtype=np.float64)
    point = float(_rates(wins, lengths)[0])
    chosen = np.random.default_rng(0).integers(0, len(values), size=(_RESAMPLES, len(values)))
    low, high = np.percentile(_rates(wins[0][chosen], lengths[0][chosen]), [2.5, 97.5])
    return point, min(point, float(low)), max(point, float(high))


def _rates(wins: _Array, gaps: _Array) -> _Array:
    """Return the rate of every row of (draws, cases)."""
    rates: _Array = wins.mean(axis=1)
    spread = gaps.std(axis=1)
    # One-sided verdicts have their best fit at infinity, and gaps that are all alike explain nothing.
    fitted = (rates > 0) & (rates < 1) & (spread > 1e-9 * np.abs(gaps).max())
    if fitted.any():
        rates[fitted] = _fit(wins[fitted], np.tanh(gaps[fitted] / spread[fitted, None]))
    return rates


def _fit(wins: _Array, leaning: _Array) -> _Array:
    """Return ``logistic(theta)`` at the maximum of the penalised likelihood of each row, by Newton's method."""
    design = np.stack([np.ones_like(leaning), leaning], axis=2)
    penalty = np.array([0.0, _RIDGE])
    mean = wins.mean(axis=1)
    weights = np.stack([np.log(mean / (1 - mean)), np.zeros_like(mean)], axis=1)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.einsum("dck,dk->dc", design, weights)))
        slope = np.einsum("dck,dc->dk", design, wins - chance) - penalty * weights
        curve = np.einsum("dck,dc,dcl->dkl", design, chance * (1 - chance), design) + np.diag(penalty)
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        weights = weights + step / np.maximum(1.0, largest)
        if float(largest.max()) < 1e-10:
            break
    rates: _Array = 1 / (1 + np.exp(-weights[:, 0]))
    return rates
