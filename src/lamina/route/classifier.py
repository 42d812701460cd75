"""Which of a few classes a point belongs to, and whether it is like any: Gaussians of one shape, in closed form.

Every class is a Gaussian around the mean of its points; all share one covariance, which few points in many dimensions
determine only after shrinkage. The same squared (Mahalanobis) distance gives the classes' probabilities and tells a
point that is far from all of them. Nothing is searched or drawn: the same points give the same bits, in any order.

Legend: N points, D dimensions, K classes, R directions in which the points of a class differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Classifier", "Points", "fit", "shrinkage"]

Points = NDArray[np.float64]
_Stored = NDArray[np.float32]
# Points of which none differs from its class's mean have no covariance; what the smallest float32 step is at length 1.
_LEAST_VARIANCE = 1e-12
_LEAST_SHRINKAGE = 0.01


@dataclass(frozen=True, slots=True, eq=False)
class Classifier:
    """Classes as Gaussians of one shape.

    Attributes:
        means: (K, D) the classes' means.
        axes: (R, D) orthonormal directions in which points of a class were seen to differ.
        gains: (R,) what the precision along each axis has beyond that across all of them; negative.
        precision: that of every direction without an axis.
    """

    means: _Stored
    axes: _Stored
    gains: _Stored
    precision: float

    def squared_distances(self, points: Points) -> Points:
        """Return each point's squared distance from each class, (N, K), in units of the classes' spread."""
        away = np.asarray(points, dtype=np.float64)[:, None, :] - self.means.astype(np.float64)
        along = away @ self.axes.astype(np.float64).T
        plain = self.precision * np.einsum("nkd,nkd->nk", away, away)
        found: Points = np.maximum(plain + (along**2) @ self.gains.astype(np.float64), 0.0)
        return found

    def probabilities(self, points: Points) -> Points:
        """Return each class's probability for each point, (N, K), if all classes are as frequent as one another.

        How often requests of each kind will come is not known when a router is trained.
        """
        scores = -self.squared_distances(points) / 2
        powers = np.exp(scores - scores.max(1, keepdims=True))
        shares: Points = powers / powers.sum(1, keepdims=True)
        return shares


def fit(points: Points, labels: Sequence[int], classes: int) -> Classifier:
    """Return the classifier of labelled points.

    Args:
        points: (N, D), in any order.
        labels: each point's class, from 0.
        classes: how many there are; each has a point.

    Raises:
        ValueError: if a class has no point.

    Source: Friedman 1989, JASA 84:165, regularised discriminant analysis, with one covariance for all classes.
    """
    order = np.lexsort((*np.asarray(points, dtype=np.float64).T, np.asarray(labels)))
    points, owners = np.asarray(points, dtype=np.float64)[order], np.asarray(labels)[order]
    if missing := sorted(set(range(classes)) - set(owners.tolist())):
        raise ValueError(f"class {missing[0]} has no point")
    means = np.stack([points[owners == place].mean(0) for place in range(classes)])
    rest = points - means[owners]
    share, spread = shrinkage(rest)
    _, sizes, axes = np.linalg.svd(rest, full_matrices=False)
    kept = sizes > 1e-9 * max(1.0, float(sizes[0]))
    variances = sizes[kept] ** 2 / len(points)
    floor = share * spread
    return Classifier(
        means=means.astype(np.float32),
        axes=np.ascontiguousarray(axes[kept], dtype=np.float32),
        gains=(1 / ((1 - share) * variances + floor) - 1 / floor).astype(np.float32),
        precision=float(1 / floor),
    )


def shrinkage(rest: Points) -> tuple[float, float]:
    """Return how much of the covariance of ``rest`` (N, D; means removed) is replaced by a ball, and its variance.

    ``(1 - share) S + share m I`` with ``m = tr S / D`` and the share that brings it nearest to the true covariance.

    Source: Ledoit & Wolf 2004, J. Multivariate Analysis 88:365, section 3.3. The share is at least 0.01, so that the
    result can be inverted.
    """
    count, width = rest.shape
    gram = rest @ rest.T / count  # has the eigenvalues of S that are not zero
    spread = float(np.trace(gram)) / width
    if spread <= _LEAST_VARIANCE:
        return 1.0, _LEAST_VARIANCE
    whole = float((gram**2).sum())
    distance = whole / width - spread**2
    error = (float(((rest**2).sum(1) ** 2).sum()) / count - whole) / count / width
    share = 1.0 if distance <= 0 else min(1.0, max(0.0, error / distance))
    return max(_LEAST_SHRINKAGE, share), spread
