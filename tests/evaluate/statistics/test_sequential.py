"""The bet on harm: a wealth by hand, its fairness by enumeration, and how soon it stops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.statistics.sequential import HarmWatch

LOSSES = st.lists(st.floats(-1, 1), max_size=30)


def test_wealth_by_hand() -> None:
    watch = HarmWatch()
    watch.see(np.array([1.0, 0.0, -1.0, 1.0]))
    stakes = (0.1, 0.2, 0.4, 0.6)
    assert watch.evidence == pytest.approx(sum((1 + s) ** 2 * (1 - s) for s in stakes) / 4)


@pytest.mark.parametrize("n", [1, 5, 10])
def test_under_a_fair_coin_the_expected_wealth_stays_one(n: int) -> None:
    total = 0.0
    for losses in itertools.product((-1.0, 1.0), repeat=n):
        watch = HarmWatch()
        watch.see(np.array(losses))
        total += watch.evidence
    assert total / 2**n == pytest.approx(1)


@given(LOSSES, LOSSES)
def test_batches_do_not_matter(first: list[float], second: list[float]) -> None:
    together, apart = HarmWatch(), HarmWatch()
    together.see(np.array([*first, *second]))
    apart.see(np.array(first))
    apart.see(np.array(second))
    assert apart.evidence == pytest.approx(together.evidence)


@given(LOSSES)
def test_a_gain_never_speaks_for_harm(losses: list[float]) -> None:
    watch, grown = HarmWatch(), HarmWatch()
    watch.see(np.array(losses))
    grown.see(np.array([*losses, -0.5]))
    assert grown.evidence <= watch.evidence


def run(worse: float, better: float, *, items: int, suites: int, seed: int = 0) -> tuple[float, float]:
    """Return the share of suites stopped, and the median number of items at which they were."""
    draw = np.random.default_rng(seed)
    stops = []
    for _ in range(suites):
        chance = draw.random(items)
        losses = np.where(chance < worse, 1.0, np.where(chance < worse + better, -1.0, 0.0))
        watch, seen = HarmWatch(), 0
        while seen < items and not watch.see(losses[seen : seen + 20]):
            seen += 20
        stops.append(min(seen + 20, items) if watch.is_proven else np.inf)
    return float(np.isfinite(stops).mean()), float(np.median(stops))


def test_harm_is_stopped_early_and_an_unchanged_layer_is_not() -> None:
    stopped, median = run(0.075, 0.025, items=2000, suites=200)
    assert stopped > 0.99
    assert median <= 304  # what the research notes give for a loss of 5 points, a tenth of the items changing
    alarms, _ = run(0.05, 0.05, items=2000, suites=400)
    assert alarms <= 0.05
