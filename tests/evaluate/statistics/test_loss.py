"""Non-inferiority against published examples and exact levels; the table of items needed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.statistics.distributions import normal_cdf
from lamina.evaluate.statistics.loss import change_interval, items_for, items_needed, loss_p, tango, upper_loss
from lamina.evaluate.statistics.paired import Paired, pair


def counts(better: int, worse: int, same: int, copies: int = 1) -> Paired:
    before = [0.0] * better + [1.0] * worse + [1.0] * same
    after = [1.0] * better + [0.0] * worse + [1.0] * same
    if copies == 1:
        return pair(before, after)
    repeat = [value for value in range(len(before)) for _ in range(copies)]
    return pair([before[i] for i in repeat], [after[i] for i in repeat], repeat)


def test_items_needed_is_the_table_of_the_research_notes() -> None:
    table = {0.01: (3086, 6177, 12359), 0.02: (767, 1540, 3086), 0.05: (118, 242, 489)}
    for drop, row in table.items():
        assert tuple(items_needed(drop, share) for share in (0.05, 0.10, 0.20)) == row


def test_items_for_follows_scatter_and_clusters() -> None:
    assert items_for(0.02, counts(49, 50, 899)) == items_needed(0.02, 100 / 999)
    assert items_for(0.02, counts(50, 50, 900, copies=3)) == pytest.approx(3 * items_needed(0.02, 0.1), rel=0.01)
    flat = pair([0.5] * 100, [0.5 + 0.001 * (place % 2) for place in range(100)])
    assert items_for(0.01, flat) == 2


def test_tango_as_published() -> None:
    # Tango 1998, crossover trial of soft contact lenses: 44 pairs, 43 agree, 1 and 0 differ. One-sided
    # equivalence with margin 0.1: Z = 1.709, P = 0.044.
    assert -tango(0, 1, 44, 0.1) == pytest.approx(1.709, abs=5e-4)
    assert loss_p(counts(0, 1, 43), 0.1) == pytest.approx(0.044, abs=5e-4)


def test_tango_without_a_loss_is_mcnemar() -> None:
    assert tango(4, 16, 90, 0.0) == pytest.approx((16 - 4) / math.sqrt(16 + 4))


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 80))
def test_the_bound_is_where_the_test_turns(better: int, worse: int, same: int) -> None:
    paired = counts(better, worse, same)
    bound = upper_loss(paired)
    assert paired.mean >= -bound
    if 0.001 < bound < 0.98:
        assert loss_p(paired, bound + 1e-3) < 0.05 < loss_p(paired, bound - 1e-3)
    low, high = change_interval(paired)
    assert -1 <= low <= paired.mean <= high <= 1
    assert low <= -bound


@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 80), st.floats(0.005, 0.3))
def test_more_losses_or_a_smaller_margin_prove_less(better: int, worse: int, same: int, margin: float) -> None:
    base = loss_p(counts(better, worse, same), margin)
    assert loss_p(counts(better, worse + 1, same - 1), margin) >= base - 1e-12
    assert loss_p(counts(better + 1, worse, same - 1), margin) <= base + 1e-12
    assert loss_p(counts(better, worse, same), margin / 2) >= base - 1e-12


@pytest.mark.parametrize(("n", "discordant", "margin"), [(100, 0.2, 0.1), (200, 0.15, 0.05), (150, 0.3, 0.1)])
def test_non_inferiority_keeps_its_level_by_enumeration(n: int, discordant: float, margin: float) -> None:
    """Where the loss is exactly the margin, "ruled out" has a chance near 5 % over all outcomes."""
    right, wrong = (discordant - margin) / 2, (discordant + margin) / 2
    ruled_out = 0.0
    for better in range(n + 1):
        for worse in range(n + 1 - better):
            same = n - better - worse
            log_chance = (
                math.lgamma(n + 1) - math.lgamma(better + 1) - math.lgamma(worse + 1) - math.lgamma(same + 1)
                + better * math.log(right) + worse * math.log(wrong) + same * math.log(1 - discordant)
            )  # fmt: skip
            if log_chance > -40 and normal_cdf(tango(better, worse, n, margin)) <= 0.05:
                ruled_out += math.exp(log_chance)
    assert 0.035 < ruled_out < 0.06


def test_copies_of_items_prove_nothing_new() -> None:
    once, thrice = counts(4, 5, 191), counts(4, 5, 191, copies=3)
    assert loss_p(thrice, 0.04) == pytest.approx(loss_p(once, 0.04), abs=0.004)
    assert loss_p(thrice, 0.04) > loss_p(pair([1.0] * 573 + [0.0] * 27, [1.0] * 600), 0.04)
    unchanged = pair([1.0] * 60, [1.0] * 60, [place // 20 for place in range(60)])
    assert upper_loss(unchanged) > upper_loss(pair([1.0] * 60, [1.0] * 60)) > 0.02
    assert upper_loss(pair([1.0] * 60, [1.0] * 60, ["one"] * 60)) == 1.0


def test_fractions_take_the_t_test() -> None:
    before = [0.4 + 0.001 * (place % 7) for place in range(50)]
    paired = pair(before, [value - 0.005 - 0.0001 * (place % 3) for place, value in enumerate(before)])
    assert loss_p(paired, 0.01) < 1e-6 < 0.9 < loss_p(paired, 0.004)
    assert 0.0051 < upper_loss(paired) < 0.0052
    assert change_interval(paired)[1] < -0.005
