"""The scale of a new layer: what it is weighed by, and that 1 wins unless another one surely does better."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.ops.strength import weigh_change

Losses = list[list[float]]


@given(st.lists(st.lists(st.floats(0.1, 9.0), min_size=4, max_size=9), min_size=1, max_size=4), st.floats(0.5, 2.0))
def test_a_change_by_one_factor_has_no_error_where_rows_are_alike(losses: Losses, factor: float) -> None:
    counts = [[1] * len(rows) for rows in losses]
    change, error = weigh_change(losses, [[factor * rows[0]] * len(rows) for rows in losses], counts)
    whole, _ = weigh_change(
        [[rows[0]] * len(rows) for rows in losses], [[factor * rows[0]] * len(rows) for rows in losses], counts
    )
    assert whole == pytest.approx(factor - 1)
    assert error >= 0
    same, none = weigh_change(losses, losses, counts)
    assert (same, none) == (0.0, 0.0)
    assert change == pytest.approx(sum(factor * rows[0] * len(rows) / sum(rows) - 1 for rows in losses) / len(losses))


def test_each_skill_counts_the_same_whatever_its_losses() -> None:
    before = [[100.0] * 4, [0.1] * 4]
    after = [[110.0] * 4, [0.09] * 4]
    change, error = weigh_change(before, after, [[5] * 4, [1] * 4])
    assert change == pytest.approx(0.0, abs=1e-12)
    assert error == pytest.approx(0.0, abs=1e-12)


def test_the_error_is_that_of_the_mean_over_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    changes = []
    for _ in range(400):
        after = (1.0 + 0.3 * torch.randn(25, generator=draw)).tolist()
        changes.append(weigh_change([[1.0] * 25], [after], [[2] * 25]))
    values = torch.tensor([change for change, _ in changes])
    assert float(values.std()) == pytest.approx(sum(error for _, error in changes) / 400, rel=0.15)
