"""The scale of a new layer: what it is weighed by, and that 1 wins unless another one surely does better."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.lora.adapter import Factors
from lamina.lora.surgery import fresh_adapter
from lamina.ops.project import Project, open_project
from lamina.ops.rows import heldout_sample, render_rows
from lamina.ops.strength import SkillRows, find_strength, weigh_change
from lamina.records import Quiet, TokenRow
from lamina.stack.layers import read_layer

Losses = list[list[float]]


@given(st.lists(st.lists(st.floats(0.1, 9.0), min_size=4, max_size=9), min_size=1, max_size=4), st.floats(0.5, 2.0))
def test_a_change_by_one_factor_has_no_error_where_rows_are_alike(losses: Losses, factor: float) -> None:
    counts = [[1] * len(rows) for rows in losses]
    unknown = [None] * len(losses)
    change, error = weigh_change(losses, [[factor * rows[0]] * len(rows) for rows in losses], counts, unknown)
    whole, _ = weigh_change(
        [[rows[0]] * len(rows) for rows in losses], [[factor * rows[0]] * len(rows) for rows in losses], counts, unknown
    )
    assert whole == pytest.approx(factor - 1)
    assert error >= 0
    same, none = weigh_change(losses, losses, counts, unknown)
    assert (same, none) == (0.0, 0.0)
    assert change == pytest.approx(sum(factor * rows[0] * len(rows) / sum(rows) - 1 for rows in losses) / len(losses))


def test_each_skill_counts_the_same_whatever_its_losses() -> None:
    before = [[100.0] * 4, [0.1] * 4]
    after = [[110.0] * 4, [0.09] * 4]
    change, error = weigh_change(before, after, [[5] * 4, [1] * 4], [None, None])
    assert change == pytest.approx(0.0, abs=1e-12)
    assert error == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("gain", "change"),
    [
        (4.0, 0.1),  # more than is left: a share of what is left
        (0.5, 0.4),  # of what was gained
        (0.0, 2.0),  # a gain of nothing is no measure: of a twentieth of the loss
        (-1.0, 2.0),
    ],
)
def test_a_change_is_a_share_of_what_the_layer_gained_if_that_is_less(gain: float, change: float) -> None:
    counts, before, after = [[2] * 4], [[4.0] * 4], [[4.4] * 4]
    assert weigh_change(before, after, counts, [gain])[0] == pytest.approx(change)


def test_the_error_is_that_of_the_mean_over_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    changes = []
    for _ in range(400):
        after = (1.0 + 0.3 * torch.randn(25, generator=draw)).tolist()
        changes.append(weigh_change([[1.0] * 25], [after], [[2] * 25], [None]))
    values = torch.tensor([change for change, _ in changes])
    assert float(values.std()) == pytest.approx(sum(error for _, error in changes) / 400, rel=0.15)


@pytest.fixture
def skilled(project: Path, cli: Callable[..., Any]) -> Project:
    """A project with one layer that has held-out rows."""
    with (project / "lamina.toml").open("a") as config:
        config.write("\n[train]\nheldout = 0.3\n")
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(60)]
    Path("fox.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli("train", "fox.jsonl", "--as", "fox", "--rank", "4", "--learning-rate", "0.02", "--epochs", "2").code == 0
    return open_project(project, Quiet())


def random_layer(project: Project, size: float) -> dict[str, Factors]:
    draw = torch.Generator().manual_seed(1)
    fresh = fresh_adapter(project.loaded.model, 4, 1)
    return {path: Factors(f.A, size * torch.randn(f.B.shape, generator=draw)) for path, f in fresh.items()}


def heldout_of(project: Project) -> list[TokenRow]:
    (entry,) = project.stack().layers
    rows = heldout_sample(project, [read_layer(project.store, entry.layer)], 48)
    return render_rows(project, rows, project.loaded.context)


def test_a_layer_that_only_harms_is_made_smaller(skilled: Project) -> None:
    found = find_strength(
        skilled, skilled.stack(), random_layer(skilled, 0.5), SkillRows(heldout_of(skilled)), tokens=100_000
    )
    assert found.scale == 0.5
    assert found.cost.tokens > 0
    again = find_strength(
        skilled, skilled.stack(), random_layer(skilled, 0.5), SkillRows(heldout_of(skilled)), tokens=100_000
    )
    assert again.scale == 0.5


def test_one_stays_where_nothing_is_surely_better(skilled: Project) -> None:
    found = find_strength(
        skilled, skilled.stack(), random_layer(skilled, 0.0), SkillRows(heldout_of(skilled)), tokens=100_000
    )
    assert found.scale == 1.0


@pytest.mark.parametrize(("change", "scale"), [(-0.015, 1.0), (-0.025, 0.5)])
def test_another_scale_has_to_win_by_two_standard_errors(
    skilled: Project, monkeypatch: pytest.MonkeyPatch, change: float, scale: float
) -> None:
    monkeypatch.setattr("lamina.ops.strength.weigh_change", lambda *_: (change, 0.01))
    own = SkillRows(heldout_of(skilled))
    assert find_strength(skilled, skilled.stack(), random_layer(skilled, 0.1), own, tokens=100_000).scale == scale


def test_nothing_is_searched_where_it_would_cost_too_much_or_say_nothing(skilled: Project) -> None:
    layer, heldout = random_layer(skilled, 0.5), heldout_of(skilled)
    for parent, rows, tokens in (
        (skilled.stack(), heldout, 100),
        (skilled.stack(), heldout[:3], 100_000),
        (skilled.stack().prefix(0), heldout, 100_000),
    ):
        found = find_strength(skilled, parent, layer, SkillRows(rows), tokens=tokens)
        assert (found.scale, found.cost.tokens) == (1.0, 0)


def test_the_search_keeps_to_a_tenth_of_the_training(skilled: Project) -> None:
    tokens = 20_000
    found = find_strength(
        skilled, skilled.stack(), random_layer(skilled, 0.5), SkillRows(heldout_of(skilled)), tokens=tokens
    )
    assert 0 < found.cost.tokens / 2 <= tokens / 10
