"""Bradley-Terry ratings: one number for each model from who beat whom.

``P(i beats j) = s_i / (s_i + s_j)``; a tie is half a win for each. Ratings are on Elo's scale, ``400 log10 s``. Only
differences mean something, so one model, the anchor, stands at 1000 and the intervals are of distances to it. A mean at
1000 would let the one model that hardly ever wins blur all the others.

Source: Bradley & Terry 1952, Biometrika 39:324.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Match", "Rating", "rate_models"]

_SCALE = 400 / math.log(10)
_CENTRE = 1000.0
_RIDGE = 1e-4  # keeps an unbeaten model's best fit finite, and changes the others in no digit shown
_RESAMPLES = 500
_STEPS = 100
_Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Match:
    """``first`` met ``second`` and scored 1, 0.5 or 0. Matches of one ``group`` are drawn together in the bootstrap."""

    first: str
    second: str
    score: float
    group: str = ""


@dataclass(frozen=True, slots=True)
class Rating:
    """A model's rating with a 95 % interval, infinite above if none scored against it, and below if it never scored."""

    name: str
    value: float
    low: float
    high: float


def rate_models(matches: Sequence[Match], anchor: str | None = None) -> tuple[Rating, ...]:
    """Return every model's rating, best first, with bootstrap intervals.

    Args:
        matches: at least one.
        anchor: the model at 1000; None takes the one with the most matches.

    Raises:
        ValueError: if there are no matches, or two models are not linked by any chain of matches.
    """
    names = sorted({name for match in matches for name in (match.first, match.second)})
    groups, points = _tabulate(names, matches)
    total = points.sum(axis=0)
    _check_linked(names, total)
    met = (total + total.T).sum(axis=1)
    centre = int(met.argmax()) if anchor is None else names.index(anchor)
    values = _fit(total[None], centre)[0]
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=_RESAMPLES)
    drawn = _fit(np.tensordot(draws.astype(np.float64), points, axes=1), centre)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    ratings = [
        Rating(
            name,
            _elo(values[i]),
            _elo(min(low[i], values[i])) if total[i].any() else -math.inf,
            _elo(max(high[i], values[i])) if total[:, i].any() else math.inf,
        )
        for i, name in enumerate(names)
    ]
    return tuple(sorted(ratings, key=lambda rating: (-rating.value, rating.name)))


def _tabulate(names: Sequence[str], matches: Sequence[Match]) -> tuple[int, _Array]:
    """Return how many groups there are, and ``points[g, i, j]``: what model i scored against j in group g."""
    place = {name: index for index, name in enumerate(names)}
    groups = sorted({match.group or f"#{number}" for number, match in enumerate(matches)})
    row = {group: index for index, group in enumerate(groups)}
    points = np.zeros((len(groups), len(names), len(names)))
    for number, match in enumerate(matches):
        group, i, j = row[match.group or f"#{number}"], place[match.first], place[match.second]
        points[group, i, j] += match.score
        points[group, j, i] += 1 - match.score
    return len(groups), points


def _fit(points: _Array, centre: int) -> _Array:
    """Return log-strengths, 0 for ``centre``, at the maximum of the likelihood, by Newton's method with short steps.

    ``points`` is (draws, models, models); so many fits are made at once, and (draws, models) comes back.
    """
    met = points + points.transpose(0, 2, 1)
    strengths = np.zeros(points.shape[:2])
    identity = np.eye(points.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(strengths[:, None, :] - strengths[:, :, None]))
        slope = points.sum(axis=2) - (met * chance).sum(axis=2) - _RIDGE * strengths
        weight = met * chance * (1 - chance)
        curve = weight.sum(axis=2)[:, :, None] * identity - weight + _RIDGE * identity
        step = np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        largest = np.abs(step).max(axis=1, keepdims=True)
        strengths = strengths + step / np.maximum(1.0, largest)
        if float(largest.max()) < 1e-9:
            break
    anchored: _Array = strengths - strengths[:, [centre]]
    return anchored


def _elo(strength: float) -> float:
    return _CENTRE + _SCALE * float(strength)


def _check_linked(names: Sequence[str], points: _Array) -> None:
    if not names:
        raise ValueError("no matches")
    met = (points + points.T) > 0
    linked, edge = {0}, [0]
    while edge:
        edge = [int(j) for i in edge for j in np.flatnonzero(met[i]) if int(j) not in linked]
        linked |= set(edge)
    apart = [name for index, name in enumerate(names) if index not in linked]
    if apart:
        raise ValueError(f"'{apart[0]}' and '{names[0]}' are not linked by any chain of matches")
