"""Paired tests: hand-computed numbers, validity by enumeration, laws, and scipy as an oracle where it is installed."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lamina.evaluate.statistics.paired import better_p, bootstrap_interval, mcnemar_p, mean_p, pair, sign_flip_p

COUNTS = st.integers(0, 60)
WHOLE = st.lists(st.integers(-4, 4), min_size=1, max_size=9)


def test_exact_mcnemar_by_hand() -> None:
    before, after = [0.0] * 9 + [1.0] + [1.0] * 5, [1.0] * 9 + [0.0] + [1.0] * 5
    assert better_p(pair(before, after)) == (10 + 1) / 2**10
    assert better_p(pair(after, before)) == 1 - 1 / 2**10
    assert better_p(pair(before, before)) == 1.0
    # Fagerland, Lydersen & Laake 2013, BMC Med. Res. Methodol. 13:91: 1 and 7 discordant pairs, P = 0.070.
    assert mcnemar_p(7, 1, two_sided=True) == pytest.approx(0.0703125)


@given(COUNTS, COUNTS)
def test_mcnemar_is_the_binomial_tail(better: int, worse: int) -> None:
    n = better + worse
    exact = Fraction(sum(math.comb(n, k) for k in range(better, n + 1)), 2**n)
    assert mcnemar_p(better, worse) == pytest.approx(float(exact), rel=1e-12)
    two_sided = mcnemar_p(better, worse, two_sided=True)
    assert two_sided == mcnemar_p(worse, better, two_sided=True)
    assert two_sided == pytest.approx(min(1, 2 * min(mcnemar_p(better, worse), mcnemar_p(worse, better))))


@given(COUNTS, COUNTS)
def test_mcnemar_falls_with_gains_and_rises_with_losses(better: int, worse: int) -> None:
    assert mcnemar_p(better + 1, worse) <= mcnemar_p(better, worse) <= mcnemar_p(better, worse + 1)


@pytest.mark.parametrize("two_sided", [False, True])
@pytest.mark.parametrize("n", range(1, 41))
def test_mcnemar_is_valid_at_every_level(n: int, two_sided: bool) -> None:
    """P(p <= a) <= a under a fair coin, for every attainable a, by enumeration."""
    chances: dict[float, float] = {}
    for better in range(n + 1):
        p_value = mcnemar_p(better, n - better, two_sided=two_sided)
        chances[p_value] = chances.get(p_value, 0.0) + math.comb(n, better) / 2**n
    total = 0.0
    for p_value in sorted(chances):
        total += chances[p_value]
        assert total <= p_value * (1 + 1e-12)


def test_a_large_suite_is_still_exact() -> None:
    assert mcnemar_p(1500, 1300) == pytest.approx(8.32e-5, rel=0.02)  # normal with continuity: z = 199 / sqrt(2800)
    assert mcnemar_p(3000, 0) == 0.0  # 2^-3000 is below the smallest float, and that is all right


@given(st.integers(1, 30), st.integers(0, 30))
def test_flipping_single_items_is_mcnemar(better: int, worse: int) -> None:
    sums = np.array([1.0] * better + [-1.0] * worse)
    assert sign_flip_p(sums) == pytest.approx(mcnemar_p(better, worse), rel=1e-9)


@given(WHOLE)
def test_flipping_clusters_enumerates_all_signs(sums: list[int]) -> None:
    flips = itertools.product((-1, 1), repeat=len(sums))
    extreme = sum(sum(s * abs(x) for s, x in zip(signs, sums, strict=True)) >= sum(sums) for signs in flips)
    assert sign_flip_p(np.array(sums, dtype=float)) == pytest.approx(extreme / 2 ** len(sums))


@given(WHOLE)
def test_flipping_clusters_is_valid_at_every_level(sums: list[int]) -> None:
    """Over all signs of the same sums, P(p <= a) <= a."""
    p_values = sorted(
        sign_flip_p(np.array([s * abs(x) for s, x in zip(signs, sums, strict=True)], dtype=float))
        for signs in itertools.product((-1, 1), repeat=len(sums))
    )
    for place, p_value in enumerate(p_values):
        if place + 1 == len(p_values) or p_values[place + 1] > p_value * (1 + 1e-9):
            assert (place + 1) / len(p_values) <= p_value * (1 + 1e-9)


def test_fractions_are_flipped_too() -> None:
    before = [((place * 37) % 100) / 200 for place in range(40)]
    assert better_p(pair(before, [value + 0.1 for value in before])) < 0.001
    assert better_p(pair(before, [value - 0.1 for value in before])) > 0.999
    drawn = np.array([0.3, -0.1, 0.25, 0.2, -0.05, 0.4, 0.1, 0.15])
    flips = itertools.product((-1, 1), repeat=len(drawn))
    share = sum(float(np.dot(signs, abs(drawn))) >= drawn.sum() - 1e-9 for signs in flips) / 2 ** len(drawn)
    assert sign_flip_p(drawn) == pytest.approx(share, abs=4 * math.sqrt(share / 9999))


def test_clusters_are_flipped_whole() -> None:
    """Twelve better items of one passage are one coin, not twelve."""
    before, after = [0.0] * 12, [1.0] * 12
    assert better_p(pair(before, after)) == 2**-12
    assert better_p(pair(before, after, ["passage"] * 12)) == 0.5
    assert better_p(pair(before, after, list("aaabbbcccddd"))) == 2**-4


def test_mean_p_is_the_paired_t_test() -> None:
    changes = [0.1, 0.3, -0.2, 0.4, 0.25, 0.05, 0.3]
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.ttest_1samp(changes, 0.0, alternative="greater").pvalue
    assert mean_p(pair([0.0] * 7, changes)) == pytest.approx(float(wanted), rel=1e-9)
    shifted = stats.ttest_1samp(changes, -0.1, alternative="greater").pvalue
    assert mean_p(pair([0.0] * 7, changes), 0.1) == pytest.approx(float(shifted), rel=1e-9)


def test_bca_as_scipy_has_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    changes = np.random.default_rng(3).exponential(0.1, 60) - 0.05
    theirs = stats.bootstrap((changes,), np.mean, n_resamples=20_000, method="BCa", random_state=1).confidence_interval
    low, high = bootstrap_interval(pair([0.0] * 60, changes.tolist()))
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.003)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
@example([0.0, 3.8e-138])
def test_the_bootstrap_is_deterministic_and_ordered(changes: list[float]) -> None:
    paired = pair([0.0] * len(changes), changes)
    low, high = bootstrap_interval(paired)
    assert (low, high) == bootstrap_interval(paired)
    assert min(changes) - 1e-9 <= low <= high <= max(changes) + 1e-9


def test_items_that_either_could_not_score_are_left_out() -> None:
    paired = pair([1.0, math.nan, 0.0, 1.0], [0.0, 1.0, math.nan, 1.0], ["a", "b", "c", "a"])
    assert (paired.n, paired.worse, paired.better, paired.clusters) == (2, 1, 0, 1)
    with pytest.raises(ValueError, match="no item was scored by both"):
        pair([math.nan], [1.0])
    with pytest.raises(ValueError, match="2 items before, 1 after"):
        pair([1.0, 0.0], [1.0])
