"""Two stacks on the same items: paired tests of whether the one is better, and the interval of what changed."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lamina.evaluate.statistics.distributions import normal_cdf, normal_quantile, student_cdf
from lamina.evaluate.statistics.intervals import Values, group, standard_error

__all__ = ["Paired", "better_p", "bootstrap_interval", "mcnemar_p", "mean_p", "pair", "sign_flip_p"]

_FLIPS = 9_999
_MANY = 200
_RESAMPLES = 4_999
_EXACT_WORK = 20_000_000
_CHUNK = 2_000_000
# Sums of the same numbers in another order differ in their last digits; a tie must stay a tie.
_TIE = 1e-9


@dataclass(frozen=True, eq=False)
class Paired:
    """What changed between two stacks on the same items.

    Attributes:
        changes: after minus before for each item that both scored, -1..1.
        groups: each such item's cluster, numbered from 0.
    """

    changes: Values
    groups: NDArray[np.int64]

    @cached_property
    def n(self) -> int:
        """How many items both scored."""
        return len(self.changes)

    @cached_property
    def better(self) -> int:
        """How many items changed for the better."""
        return int((self.changes > 0).sum())

    @cached_property
    def worse(self) -> int:
        """How many items changed for the worse."""
        return int((self.changes < 0).sum())

    @cached_property
    def mean(self) -> float:
        """The mean change."""
        return math.fsum(self.changes) / self.n

    @cached_property
    def is_binary(self) -> bool:
        """Whether every item is right or wrong, so that changes are -1, 0 or 1."""
        return bool(np.isin(self.changes, (-1.0, 0.0, 1.0)).all())

    @cached_property
    def clusters(self) -> int:
        """How many clusters there are, the number of items where none is shared."""
        return int(self.groups.max()) + 1

    @cached_property
    def is_clustered(self) -> bool:
        """Whether any two items share a cluster."""
        return self.clusters < self.n

    @cached_property
    def sums(self) -> Values:
        """The sum of changes in each cluster."""
        return np.asarray(np.bincount(self.groups, weights=self.changes), dtype=np.float64)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """The number of items in each cluster."""
        return np.bincount(self.groups)

    def mirrored(self) -> Paired:
        """Return the same with before and after swapped."""
        return Paired(-self.changes, self.groups)


def pair(before: Sequence[float], after: Sequence[float], clusters: Sequence[Hashable] = ()) -> Paired:
    """Return the changes between two stacks; items that either could not score (NaN) are left out.

    Raises:
        ValueError: if the lengths differ, or no item was scored by both.
    """
    old, new = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if old.shape != new.shape:
        raise ValueError(f"{len(old)} items before, {len(new)} after")
    groups = group(clusters, len(old))
    kept = ~(np.isnan(old) | np.isnan(new))
    if not kept.any():
        raise ValueError("no item was scored by both")
    return Paired((new - old)[kept], np.unique(groups[kept], return_inverse=True)[1])


def better_p(paired: Paired) -> float:
    """Return the one-sided p-value of "after is better than before".

    Items that are right or wrong take the exact McNemar test, or the sign-flip test over clusters where they share
    some. Other values take the sign-flip test up to 200 clusters, and above, where the two agree and it is a thousand
    times as fast, the t test of the mean.
    """
    if paired.is_binary and not paired.is_clustered:
        return mcnemar_p(paired.better, paired.worse)
    if not paired.is_binary and paired.clusters > _MANY:
        return mean_p(paired)
    return sign_flip_p(paired.sums)


def mcnemar_p(better: int, worse: int, *, two_sided: bool = False) -> float:
    """Return the exact p-value of McNemar's test.

    Of the items whose outcome changed, those that became right are heads of a fair coin if nothing differs:
    ``P(X >= better)`` for ``X ~ Binomial(better + worse, 1/2)``. Two-sided: twice the smaller tail, at most 1.

    Source: McNemar 1947, Psychometrika 12:153; the exact form is Mosteller's (1952).
    """
    if two_sided:
        return min(1.0, 2 * mcnemar_p(max(better, worse), min(better, worse)))
    n = better + worse
    # Whichever tail is shorter; counted in whole numbers, so that nothing is rounded but the result.
    return 1 - _tail(n, worse + 1) if better <= worse else _tail(n, better)


def _tail(n: int, least: int) -> float:
    total, ways = 0, 1
    for k in range(n - least + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
    return float(total / 2**n)


def sign_flip_p(sums: Values) -> float:
    """Return the one-sided p-value of "the sum of ``sums`` is positive", by flipping the signs of its members.

    If nothing differs, before and after can be swapped in any cluster: each cluster's sum has either sign with chance
    1/2, whatever its items do to one another. With one item a cluster and changes of -1, 0 and 1 this is McNemar's
    exact test. Whole sums are enumerated exactly; others are drawn 9,999 times from a fixed seed.

    Source: Fisher 1935, The Design of Experiments, section 21; over clusters, Gail et al. 1996, Stat. Med. 15:1069.
    """
    moved = sums[sums != 0]
    if not len(moved):
        return 1.0
    sizes, observed = np.abs(moved), math.fsum(moved)
    if bool((sizes == np.round(sizes)).all()) and sizes.sum() * len(sizes) <= _EXACT_WORK:
        return _enumerate_flips(sizes.astype(np.int64), round(observed))
    draw = np.random.Generator(np.random.PCG64(0))
    extreme, left, rows = 0, _FLIPS, max(1, _CHUNK // len(sizes))
    while left:
        signs = 2.0 * (draw.random((min(left, rows), len(sizes))) < 0.5) - 1
        extreme += int((signs @ sizes >= observed - _TIE).sum())
        left -= len(signs)
    return (extreme + 1) / (_FLIPS + 1)


def _enumerate_flips(sizes: NDArray[np.int64], observed: int) -> float:
    """Return the chance that the sum of ``sizes`` under random signs is at least ``observed``."""
    whole = int(sizes.sum())
    chances = np.zeros(whole + 1)  # of the sum of those with a plus sign
    chances[0] = 1.0
    for size in sizes:
        chances *= 0.5
        chances[size:] += chances[:-size].copy()
    least = (observed + whole) // 2
    return min(1.0, float(chances[least:].sum()))


def mean_p(paired: Paired, shift: float = 0.0) -> float:
    """Return the one-sided p-value of "the mean change is above ``-shift``", by t over clusters.

    Source: the paired test of Miller 2024, arXiv:2411.00640, section 4.2, with clustered standard errors and Student's
    t for the clusters' number.
    """
    error = standard_error(paired.changes, paired.groups)
    if math.isinf(error):
        return 1.0
    gain = paired.mean + shift
    if error == 0:
        return 0.0 if gain > 0 else 1.0
    return student_cdf(-gain / error, paired.clusters - 1)


def bootstrap_interval(paired: Paired, level: float = 0.95, *, seed: int = 0) -> tuple[float, float]:
    """Return the BCa bootstrap interval of the mean change; whole clusters are drawn, with a fixed seed.

    Source: Efron 1987, J. Am. Stat. Assoc. 82:171: bias-corrected and accelerated, acceleration by the jackknife. Ties
    with the observed mean count half in the bias correction, since means of few distinct changes are discrete.
    """
    sums, sizes, mean = paired.sums, paired.sizes, paired.mean
    if len(sums) < 2 or bool((sums == mean * sizes).all()):
        return mean, mean
    means = _resampled_means(sums, sizes, seed)
    below = (float((means < mean - _TIE).mean()) + float((means < mean + _TIE).mean())) / 2
    bias = normal_quantile(min(max(below, 1 / _RESAMPLES), 1 - 1 / _RESAMPLES))
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    gaps = left_out.mean() - left_out
    largest = float(np.abs(gaps).max())
    if largest > 0:
        gaps = gaps / largest  # it cancels out below, where powers of tiny changes would underflow
    spread = float((gaps**2).sum())
    acceleration = float((gaps**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def end(share: float) -> float:
        z = bias + normal_quantile(share)
        return float(np.quantile(means, normal_cdf(bias + z / (1 - acceleration * z))))

    return end((1 - level) / 2), end((1 + level) / 2)


def _resampled_means(sums: Values, sizes: NDArray[np.int64], seed: int) -> Values:
    draw = np.random.Generator(np.random.PCG64(seed))
    rows = max(1, _CHUNK // len(sums))
    parts = []
    for start in range(0, _RESAMPLES, rows):
        drawn = draw.integers(0, len(sums), (min(rows, _RESAMPLES - start), len(sums)))
        parts.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    return np.concatenate(parts)
