"""When held-out rows are measured, what is kept, and when a run is over."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lamina.lora.adapter import Factors
from lamina.records import TokenRow
from lamina.train.best import Best, Watch, plan_watch
from lamina.train.state import TrainState


def make_rows(count: int, length: int = 10) -> list[TokenRow]:
    return [TokenRow((0,) * length, (False,) + (True,) * (length - 1), row=index) for index in range(count)]


def make_state() -> TrainState:
    return TrainState({"a": Factors(torch.ones(2, 3), torch.zeros(4, 2))}, torch.device("cpu"))


@given(
    rows=st.integers(0, 300),
    length=st.integers(1, 500),
    tokens=st.floats(1, 1e9),
    steps=st.integers(1, 10_000),
)
def test_measuring_takes_a_twentieth_of_the_time_at_most(rows: int, length: int, tokens: float, steps: int) -> None:
    watch = plan_watch(make_rows(rows, length), tokens=tokens, steps=steps, patience=3)
    measured = len(watch.steps) * sum(len(row.ids) for row in watch.rows)
    assert measured * 0.5 <= 0.05 * tokens  # a token takes half as long to measure as to train on
    assert len(watch.steps) <= 16
    if watch.steps:
        assert len(watch.steps) >= 2
        assert (min(watch.steps) >= 1, max(watch.steps)) == (True, steps)
        assert 8 <= len(watch.rows) <= rows


def test_rows_are_as_many_as_there_is_time_for_and_spread_over_all() -> None:
    heldout = make_rows(200)
    little = plan_watch(heldout, tokens=10_000, steps=100, patience=3)
    assert ([row.row for row in little.rows], len(little.steps)) == ([0, 25, 50, 75, 100, 125, 150, 175], 12)
    middle = plan_watch(heldout, tokens=80_000, steps=100, patience=3)
    assert (len(middle.rows), len(middle.steps)) == (50, 16)
    assert plan_watch(heldout, tokens=1e9, steps=100, patience=3).rows == tuple(heldout)


def test_nothing_is_planned_where_it_would_tell_nothing() -> None:
    assert plan_watch(make_rows(7), tokens=1e9, steps=100, patience=3) == Watch()
    assert plan_watch(make_rows(8), tokens=1_000, steps=100, patience=3) == Watch()  # a single one fits
    assert plan_watch(make_rows(8), tokens=1_600, steps=100, patience=3).steps == {50, 100}
    assert plan_watch(make_rows(8), tokens=1e9, steps=1, patience=3) == Watch()


def test_a_run_is_over_after_so_many_misses() -> None:
    best, steps = Best(torch.zeros(1), step=4, loss=1.0), frozenset({2, 4, 6, 8, 10})
    assert not Watch(steps=steps, patience=3).is_over(None, 10)
    assert [Watch(steps=steps, patience=2).is_over(best, step) for step in (4, 6, 7, 8)] == [False, False, False, True]
    assert not Watch(steps=steps, patience=4).is_over(best, 10)
    assert not Watch(steps=steps, patience=0).is_over(best, 10)


def test_nothing_that_is_missed_in_the_first_pass_ends_a_run() -> None:
    best, steps = Best(torch.zeros(1), step=2, loss=1.0), frozenset(range(2, 22, 2))
    watch = Watch(steps=steps, patience=2, first_pass=12)
    assert [step for step in range(21) if watch.is_over(best, step)] == [16, 17, 18, 19, 20]
    assert not Watch(steps=steps, patience=2, first_pass=20).is_over(best, 20)  # a run of one pass


def test_the_lowest_loss_is_kept_and_restored() -> None:
    state = make_state()
    state.restore_best()  # nothing was measured
    for step, loss in enumerate((3.0, 2.0, 2.0, 2.5), start=1):
        state.step = step
        state.values.fill_(step)
        state.compare(loss)
    assert state.best is not None
    assert (state.best.step, state.best.loss) == (2, 2.0)
    state.restore_best()
    assert torch.equal(state.values, torch.full_like(state.values, 2.0))
    assert torch.equal(state.pairs["a"][1], torch.full((4, 2), 2.0))  # the model's views follow


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(FloatingPointError, match="held-out loss became nan"):
        make_state().compare(float("nan"))
