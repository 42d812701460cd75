"""Normal and Student's t against published tables, laws, and scipy where it is installed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.statistics.distributions import normal_cdf, normal_quantile, student_cdf, student_quantile


def test_published_quantiles() -> None:
    assert normal_quantile(0.95) == pytest.approx(1.6448536269514722, abs=1e-12)
    # NIST/SEMATECH e-Handbook of Statistical Methods, table 1.3.6.7.2.
    for freedom, value in ((1, 6.314), (2, 2.920), (5, 2.015), (10, 1.812), (30, 1.697), (100, 1.660)):
        assert student_quantile(0.95, freedom) == pytest.approx(value, abs=5e-4)
    assert student_cdf(1.0, 1) == pytest.approx(0.75, abs=1e-14)  # Cauchy: 1/2 + atan(1)/pi
    assert student_cdf(2.0, 2) == pytest.approx(0.5 + 1 / math.sqrt(6), abs=1e-14)  # 1/2 + t / (2 sqrt(2 + t^2))


@given(st.floats(-50, 50), st.floats(0.5, 5000))
def test_the_t_distribution_is_symmetric_and_rises(t: float, freedom: float) -> None:
    assert student_cdf(t, freedom) + student_cdf(-t, freedom) == pytest.approx(1, abs=1e-12)
    assert student_cdf(t, freedom) <= student_cdf(t + 0.1, freedom) + 1e-13


@given(st.floats(1e-4, 1 - 1e-4), st.one_of(st.floats(1, 1e5), st.just(math.inf)))
def test_quantiles_invert(share: float, freedom: float) -> None:
    assert student_cdf(student_quantile(share, freedom), freedom) == pytest.approx(share, rel=1e-8)


def test_many_degrees_are_normal() -> None:
    assert student_cdf(1.3, 1e7) == pytest.approx(normal_cdf(1.3), abs=1e-7)


def test_as_scipy_has_it() -> None:
    stats = pytest.importorskip("scipy.stats")
    for freedom in (0.7, 1, 3, 17, 400, 5e4):
        for t in (-40.0, -3.1, -0.2, 0.0, 2.5, 12.0):
            assert student_cdf(t, freedom) == pytest.approx(float(stats.t.cdf(t, freedom)), rel=1e-9, abs=1e-15)
