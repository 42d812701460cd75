"""How much was lost at most, and how many items it takes to see a loss."""

from __future__ import annotations

import math

from lamina.evaluate.statistics.distributions import normal_quantile, student_cdf, student_quantile
from lamina.evaluate.statistics.intervals import design_effect, standard_error
from lamina.evaluate.statistics.paired import Paired, bootstrap_interval, mean_p

__all__ = ["change_interval", "items_for", "items_needed", "loss_p", "tango", "upper_loss"]

_LEVEL = 0.05
_POWER = 0.8


def loss_p(paired: Paired, margin: float) -> float:
    """Return the p-value of non-inferiority: small if a loss of ``margin`` (0..1) or more is ruled out.

    Items that are right or wrong take Tango's score test; where items share clusters, with all counts divided by the
    design effect (Rao & Scott 1992, Biometrics 48:577) and Student's t for the clusters' number. Other values take the
    t test of the mean change.
    """
    if not paired.is_binary:
        return mean_p(paired, margin)
    return student_cdf(_scaled_tango(paired, margin), _freedom(paired))


def upper_loss(paired: Paired, level: float = _LEVEL) -> float:
    """Return the largest loss that the items do not rule out, one-sided: where ``loss_p`` equals ``level``.

    Below 0 if a gain is shown; 1 if there is a single cluster, which rules nothing out.
    """
    if not paired.is_binary:
        error = standard_error(paired.changes, paired.groups)
        if math.isinf(error):
            return 1.0
        return -paired.mean + student_quantile(1 - level, paired.clusters - 1) * error
    if _freedom(paired) == 0:
        return 1.0
    wanted = student_quantile(level, _freedom(paired))
    low, high = -1.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if _scaled_tango(paired, middle) > wanted else (low, middle)
    return high


def change_interval(paired: Paired) -> tuple[float, float]:
    """Return a 95 % interval of the mean change: Tango's for right and wrong, else the BCa bootstrap's."""
    if not paired.is_binary:
        return bootstrap_interval(paired)
    return -upper_loss(paired, 0.025), upper_loss(paired.mirrored(), 0.025)


def tango(better: float, worse: float, n: float, loss: float) -> float:
    """Return Tango's score statistic of "the share right falls by ``loss`` or more"; very negative if it does not.

    ``(worse - better - n loss) / sqrt(n (2 q + loss (1 - loss)))`` with q the share of items that become right, fitted
    under that loss. With ``loss = 0`` this is McNemar's statistic, its sign that of the harm.

    Args:
        better: how many items became right; counts need not be whole.
        worse: how many became wrong.
        n: how many items there are.
        loss: the loss tested, -1..1.

    Source: Tango 1998, Statistics in Medicine 17:891.
    """
    a = 2 * n
    b = -worse - better + (2 * n - worse + better) * loss
    c = -better * loss * (1 - loss)
    fitted = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = n * (2 * fitted + loss * (1 - loss))
    gap = worse - better - n * loss
    if variance <= 0:
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)
    return gap / math.sqrt(variance)


def items_needed(drop: float, discordant: float, power: float = _POWER) -> int:
    """Return how many paired items show a drop, at one-sided 5 % and 80 % power unless told otherwise.

    ``n = (z_a + z_b)^2 (p_d - d^2) / d^2``, where ``discordant`` p_d is the share of items whose outcome changes. The
    same number of items rules out a loss of ``drop`` where there is none.

    Source: Connor 1987, Biometrics 43:207, with the alternative's variance in both terms.
    """
    return math.ceil((normal_quantile(1 - _LEVEL) + normal_quantile(power)) ** 2 * (discordant - drop**2) / drop**2)


def items_for(drop: float, paired: Paired) -> int:
    """Return how many items like these would show a drop, by how much they scatter and cluster.

    Few items tell little about how many change; of n items one more is taken to change than did, so that none changed
    does not mean none will.
    """
    if paired.is_binary:
        spread = (paired.better + paired.worse + 1) / (paired.n + 1)
    else:
        spread = float(paired.changes.var()) + drop**2
    needed = items_needed(drop, max(spread, drop)) if paired.is_binary else items_needed(drop, spread)
    return max(2, math.ceil(needed * design_effect(paired.changes, paired.groups)))


def _scaled_tango(paired: Paired, loss: float) -> float:
    effect = design_effect(paired.changes, paired.groups) if paired.is_clustered else 1.0
    return tango(paired.better / effect, paired.worse / effect, paired.n / effect, loss)


def _freedom(paired: Paired) -> float:
    return paired.clusters - 1 if paired.is_clustered else math.inf
