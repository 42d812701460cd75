"""The gate's error rates by simulation, red where a test loses its level: bench/evaluation/calibration.py, smaller.

Bounds are four standard errors wide; seeds are fixed.
"""

from __future__ import annotations

import math

import pytest
from evaluation.calibration import Case, abort_median, cases, run_case

SUITES = 1500
CASES = cases()


@pytest.mark.parametrize("case", [case for case in CASES if case.kind != "reject"], ids=lambda case: case.name)
def test_what_must_not_pass_rarely_does(case: Case) -> None:
    rate = run_case(case, SUITES, seed=7)["rate"]
    error = math.sqrt(case.nominal * (1 - case.nominal) / SUITES)
    assert case.nominal / 3 < rate < case.nominal + 4 * error


@pytest.mark.parametrize("case", [case for case in CASES if case.kind == "reject"], ids=lambda case: case.name)
def test_what_changes_nothing_is_rarely_refused(case: Case) -> None:
    found = run_case(case, SUITES // 3, seed=8)
    error = math.sqrt(case.nominal * (1 - case.nominal) / (SUITES // 3))
    assert case.nominal / 3 < found["rate"] < case.nominal + 4 * error
    assert found["early_alarm"] < case.nominal
    assert found["with_abort"] < 1.5 * case.nominal + 4 * error


def test_half_of_what_loses_five_points_is_stopped_by_304_items() -> None:
    assert abort_median(0.05, 300) <= 304
