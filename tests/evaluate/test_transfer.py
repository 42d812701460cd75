"""Transfer metrics on matrices worked out by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.evaluate.transfer import measure_transfer
from lamina.records import Matrix, Score


def matrix(stacks: str, suites: str, rows: list[list[float]]) -> Matrix:
    names = suites.split()
    scores = tuple(
        tuple(
            Score(suite=name, mean=mean, low=0, high=1, n=9, items_digest="d", values=(mean,))
            for name, mean in zip(names, row, strict=True)
        )
        for row in rows
    )
    return Matrix(tuple(stacks.split()), tuple(names), scores)


def test_three_skills_by_hand() -> None:
    found = measure_transfer(
        matrix(
            "base +a +b +c",
            "a b c general",
            [[0.1, 0.2, 0.0, 0.5], [0.8, 0.3, 0.1, 0.4], [0.6, 0.9, 0.3, 0.45], [0.7, 0.6, 0.8, 0.4]],
        )
    )
    assert found is not None
    assert found.skills == ("a", "b", "c")
    assert found.average_accuracy == pytest.approx((0.7 + 0.6 + 0.8) / 3)
    assert found.backward == pytest.approx(((0.7 - 0.8) + (0.6 - 0.9)) / 2)
    assert found.forward == pytest.approx(((0.3 - 0.2) + (0.3 - 0.0)) / 2)
    assert found.forgetting == pytest.approx(((0.8 - 0.7) + (0.9 - 0.6)) / 2)
    assert found.general == pytest.approx(0.4 - 0.5)


def test_an_update_is_a_stage_and_forgetting_is_from_the_best() -> None:
    found = measure_transfer(matrix("base +a +b +a.2", "b a", [[0.0, 0.0], [0.1, 0.5], [0.9, 0.2], [0.8, 0.7]]))
    assert found is not None
    assert found.skills == ("b", "a")
    assert found.backward == pytest.approx(((0.8 - 0.9) + (0.7 - 0.5)) / 2)
    assert found.forgetting == pytest.approx(((0.9 - 0.8) + (0.5 - 0.7)) / 2)
    assert found.forward == pytest.approx(0.1 - 0.0)
    assert found.general is None


def test_what_nothing_defines_is_none() -> None:
    assert measure_transfer(matrix("base +a", "general", [[0.1], [0.2]])) is None
    single = measure_transfer(matrix("base +a", "a", [[0.1], [0.2]]))
    assert single is not None
    assert (single.average_accuracy, single.backward, single.forward, single.forgetting) == (0.2, None, None, None)


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=4, max_size=4))
def test_forgetting_is_at_least_what_later_layers_took(rows: list[list[float]]) -> None:
    found = measure_transfer(matrix("base +a +b +c", "a b c", rows))
    assert found is not None
    assert found.forgetting >= -found.backward - 1e-12
