"""Intervals and tests against published values, and their levels by simulation; the gate's rule."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import StackError
from lamina.evaluate.gate import decide
from lamina.evaluate.statistics import interval, items_needed, paired_p_value, upper_loss
from lamina.records import Score

UNIT = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def score(values: list[float], digest: str = "d") -> Score:
    mean, low, high = interval(values)
    return Score(suite="s", mean=mean, low=low, high=high, n=len(values), items_digest=digest, values=tuple(values))


def test_wilson_interval_as_published() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81/263 and 0/20.
    assert interval([1.0] * 81 + [0.0] * 182)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval([0.0] * 20)[1:] == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(UNIT)
def test_intervals_hold_their_mean(values: list[float]) -> None:
    mean, low, high = interval(values)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1


def test_exact_mcnemar_by_hand() -> None:
    before, after = [0.0] * 9 + [1.0] + [1.0] * 5, [1.0] * 9 + [0.0] + [1.0] * 5
    assert paired_p_value(before, after) == pytest.approx((10 + 1) / 2**10)
    assert paired_p_value(after, before) == pytest.approx(1 - 1 / 2**10)
    assert paired_p_value(before, before) == 1.0


def test_permutation_test_of_fractions() -> None:
    draw = random.Random(1)
    before = [draw.random() * 0.5 for _ in range(40)]
    assert paired_p_value(before, [value + 0.1 for value in before]) < 0.001
    assert paired_p_value(before, [value - 0.1 for value in before]) > 0.999


def test_items_needed_by_hand() -> None:
    # Connor's formula for a 2-point loss where 10 % of the items change: (1.645 + 0.842)^2 (0.1 - 0.0004) / 0.0004.
    assert items_needed(0.02, 0.1) == 1540


@pytest.mark.parametrize("items", [50, 200])
def test_the_false_accept_rate_keeps_its_level(items: int) -> None:
    """A layer that changes a tenth of the items, for better or worse by a coin, gets in one time in twenty at most."""
    draw = random.Random(items)
    wins = 0
    for _ in range(2000):
        pairs = [_coin(draw) if draw.random() < 0.1 else (1.0, 1.0) for _ in range(items)]
        wins += paired_p_value(*map(list, zip(*pairs, strict=True))) <= 0.05
    assert 0 < wins / 2000 <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5


def _coin(draw: random.Random) -> tuple[float, float]:
    return (1.0, 0.0) if draw.random() < 0.5 else (0.0, 1.0)


def test_upper_loss_covers_a_true_loss_at_its_level() -> None:
    draw, missed = random.Random(7), 0
    for _ in range(2000):
        pairs = [
            (1.0, 0.0) if (u := draw.random()) < 0.07 else (0.0, 1.0) if u < 0.10 else (1.0, 1.0) for _ in range(300)
        ]
        missed += upper_loss(*map(list, zip(*pairs, strict=True))) < 0.04
    assert missed / 2000 <= 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5
    assert upper_loss([1.0] * 20, [1.0] * 20) > 0.02  # twenty unchanged items prove little


def test_the_gate_lets_a_better_layer_in_and_keeps_a_harmful_one_out() -> None:
    low, high, same = score([0.0] * 40), score([1.0] * 40), score([1.0] * 100)
    better = decide({"own": low, "g": same}, {"own": high, "g": same}, own=["own"], guards=["g"], margin=0.02)
    assert better.accepted
    assert [(line.suite, line.role, line.passed) for line in better.suites] == [
        ("s", "own", True),
        ("s", "guard", True),
    ]
    unchanged = decide({"own": low}, {"own": low}, own=["own"], guards=[], margin=0.02)
    assert not unchanged.accepted
    harmed = score([0.0] * 10 + [1.0] * 90)
    worse = decide({"own": low, "g": same}, {"own": high, "g": harmed}, own=["own"], guards=["g"], margin=0.02)
    assert not worse.accepted
    assert [line.passed for line in worse.suites] == [True, False]


def test_the_gate_compares_like_with_like() -> None:
    with pytest.raises(StackError, match="different items"):
        decide({"a": score([1.0])}, {"a": score([1.0], "other")}, own=["a"], guards=[], margin=0.02)
