"""Intervals against published values, and what clusters do to them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.statistics.intervals import design_effect, group, interval, standard_error

UNIT = st.lists(st.floats(0, 1), min_size=1, max_size=30)
BINARY = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=40)


def test_wilson_interval_as_published() -> None:
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: 81/263 and 0/20.
    assert interval([1.0] * 81 + [0.0] * 182)[1:] == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert interval([0.0] * 20)[1:] == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.one_of(UNIT, BINARY), st.integers(1, 7))
def test_intervals_hold_their_mean(values: list[float], size: int) -> None:
    clusters = [place // size for place in range(len(values))]
    mean, low, high = interval(values, clusters)
    assert 0 <= low <= mean + 1e-12
    assert mean - 1e-12 <= high <= 1
    assert math.isclose(mean, sum(values) / len(values), abs_tol=1e-12)


@given(BINARY, st.integers(2, 5))
def test_copies_tell_nothing_new(values: list[float], copies: int) -> None:
    """Every item five times, in a cluster of its own, is no better known than once."""
    alone = interval(values)
    repeated = interval(
        [value for value in values for _ in range(copies)], [i // copies for i in range(len(values) * copies)]
    )
    assert repeated[0] == pytest.approx(alone[0])
    if len(values) > 1:
        assert repeated[2] - repeated[1] >= (alone[2] - alone[1]) - 1e-9


@given(UNIT)
def test_singleton_clusters_change_nothing(values: list[float]) -> None:
    assert interval(values, [str(place) for place in range(len(values))]) == interval(values)


def test_clustered_standard_error_by_hand() -> None:
    # Two clusters of two: mean 0.5, sums of deviations +1 and -1: sqrt(2 * (1 + 1) / 1) / 4 = 0.5.
    values, groups = np.array([1.0, 1.0, 0.0, 0.0]), group(["a", "a", "b", "b"], 4)
    assert standard_error(values, groups) == pytest.approx(0.5)
    # Miller 2024, equation 4: the ordinary variance plus the products of deviations within clusters, here without the
    # factor G / (G - 1).
    apart = sum(0.25 for _ in range(4))
    within = 2 * 0.25 + 2 * 0.25
    assert standard_error(values, groups) == pytest.approx(math.sqrt((apart + within) / 16 * 2))
    # Ordinary: s = sqrt(4 * 0.25 / 3), over sqrt(4).
    assert standard_error(values, np.arange(4)) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert design_effect(values, groups) == pytest.approx(3.0)


def test_one_cluster_or_item_tells_nothing() -> None:
    assert interval([0.2, 0.4, 0.6], ["same"] * 3)[1:] == (0.0, 1.0)
    assert interval([0.3])[1:] == (0.0, 1.0)
    low, high = interval([1.0] * 50, ["same"] * 50)[1:]
    assert (low, high) == pytest.approx(interval([1.0])[1:])


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        interval([])
    with pytest.raises(ValueError, match="1 clusters for 2 items"):
        interval([1.0, 0.0], ["a"])
