"""When held-out rows are measured, what is kept, and when a run is over."""

from __future__ import annotations

from pathlib import Path

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


def best_with(*misses: int) -> Best:
    return Best(torch.zeros(1), step=2, losses=(1.0,), misses=misses)


def test_a_run_is_over_after_so_many_misses() -> None:
    assert not Watch(patience=3).is_over(None)
    assert [Watch(patience=2).is_over(best_with(*misses)) for misses in ((), (4,), (4, 6))] == [False, False, True]
    assert not Watch(patience=0).is_over(best_with(4, 6, 8))


def test_nothing_that_is_missed_in_the_first_pass_ends_a_run() -> None:
    watch = Watch(patience=2, first_pass=12)
    told = [(10, 12), (10, 12, 14), (12, 14, 16)]
    assert [watch.is_over(best_with(*misses)) for misses in told] == [False, False, True]


@pytest.mark.parametrize(
    ("later", "beaten"),
    [
        ((1.1, 2.1, 3.1, 4.1), True),  # each row a little
        ((1.1, 2.2, 3.0, 4.1), True),
        ((1.9, 2.0, 3.0, 4.0), False),  # one row much, the others not: chance
        ((1.5, 1.6, 3.5, 3.6), False),
        ((1.0, 2.0, 3.0, 4.0), False),
        ((0.9, 1.9, 2.9, 3.9), False),
    ],
)
def test_worse_is_what_is_worse_beyond_chance_row_by_row(later: tuple[float, ...], beaten: bool) -> None:
    assert Best(torch.zeros(1), step=2, losses=(1.0, 2.0, 3.0, 4.0)).beats(later) is beaten


def test_chance_is_mistaken_as_rarely_as_two_standard_errors_say() -> None:
    draw = torch.Generator().manual_seed(0)
    told = torch.randn(4000, 25, generator=draw).tolist()
    best = Best(torch.zeros(1), step=2, losses=(0.0,) * 25)
    assert 0.02 < sum(best.beats(losses) for losses in told) / len(told) < 0.04  # 2.8 % of t with 24 degrees


def measured(*losses: tuple[float, ...]) -> TrainState:
    """Return a state that was measured so, its values 1 after the first step, 2 after the second, and so on."""
    state = make_state()
    for step, found in enumerate(losses, start=1):
        state.step = step
        state.values.fill_(step)
        state.compare(found)
    return state


def test_the_best_is_restored_if_the_end_is_worse() -> None:
    state = measured((3.0, 3.0), (1.0, 1.0), (1.0, 1.0), (2.0, 2.1), (2.0, 2.1))
    assert state.best is not None
    assert (state.best.step, state.best.loss, state.best.misses) == (2, 2.0, (4, 5))
    assert state.restore_best()
    assert torch.equal(state.values, torch.full_like(state.values, 2.0))
    assert torch.equal(state.pairs["a"][1], torch.full((4, 2), 2.0))  # the model's views follow


def test_the_end_is_kept_unless_it_is_worse_beyond_chance() -> None:
    assert not make_state().restore_best()  # nothing was measured
    state = measured((3.0, 3.0), (1.0, 1.0), (2.0, 2.1), (0.9, 1.9))
    assert state.best is not None
    assert (state.best.step, state.best.misses) == (2, ())
    assert not state.restore_best()
    assert torch.equal(state.values, torch.full_like(state.values, 4.0))


@pytest.mark.parametrize("earlier", [b"[2, 1.0]            ", b"[2, 1.0, 0]         "])
def test_a_checkpoint_of_an_earlier_lamina_has_no_best(tmp_path: Path, earlier: bytes) -> None:
    state = measured((3.0, 3.0), (1.0, 1.0), (2.0, 2.1))
    path = tmp_path / "checkpoint.safetensors"
    state.save(path, {})
    again = make_state()
    again.load(path)
    assert again.best is not None
    assert (again.step, again.best.step, again.best.losses, again.best.misses) == (3, 2, (1.0, 1.0), (3,))
    written = path.read_bytes()
    assert b"[2, [1.0, 1.0], [3]]" in written
    path.write_bytes(written.replace(b"[2, [1.0, 1.0], [3]]", earlier))
    older = make_state()
    older.load(path)
    assert (older.best, older.step) == (None, 3)


def test_a_loss_that_is_no_number_ends_the_run() -> None:
    with pytest.raises(FloatingPointError, match="held-out loss became nan"):
        make_state().compare([1.0, float("nan")])
