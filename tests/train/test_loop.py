"""Training: it learns, and it resumes bit for bit (law 6)."""

import itertools
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lamina.config import BaseSettings, Recipe
from lamina.errors import StackError
from lamina.lora.surgery import fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.loop import train_steps
from lamina.train.memory import MicroBatch
from lamina.train.passes import mean_loss
from lamina.train.schedule import learning_rate, plan_steps
from lamina.train.state import TrainState

RECIPE = Recipe(rank=4, epochs=3, batch_rows=4, learning_rate=1e-2)
STOPPING = RECIPE.model_copy(update={"epochs": 30.0, "patience": 2})


def make_rows(seed: int = 0) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for index in range(10):
        ids = torch.randint(2, 290, (6 + index,), generator=generator).tolist()
        rows.append(TokenRow(tuple(ids), tuple(place > 2 for place in range(len(ids)))))
    return rows


def make_heldout() -> list[TokenRow]:
    return [TokenRow(row.ids[:5], (False,) + (True,) * 4) for row in make_rows(seed=1)[:8]]


def rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let held-out losses fall once and then rise, whatever the model; a base this small cannot learn rows by heart."""
    height = itertools.chain([3.0, 2.0], itertools.count(2.1, 0.1))

    def losses(base: LoadedBase, rows: Sequence[TokenRow]) -> list[float]:
        now = next(height)
        return [now + 0.01 * index for index in range(len(rows))]

    monkeypatch.setattr("lamina.train.loop.row_losses", losses)


def start(base: LoadedBase) -> TrainState:
    state = TrainState(fresh_adapter(base.model, RECIPE.rank, RECIPE.seed), base.device)
    state.micro = MicroBatch(32)
    return state


def test_it_learns_on_every_family(any_base: LoadedBase) -> None:
    rows = make_rows()
    before = mean_loss(any_base, rows)
    records = list(train_steps(any_base, start(any_base), rows, RECIPE))
    assert mean_loss(any_base, rows) < before - 0.05
    assert [record.step for record in records] == list(range(1, 10))
    assert sum(record.tokens for record in records) == 3 * sum(len(row.ids) for row in rows)


def test_a_bfloat16_base_learns_what_a_float32_base_learns(base_folders: dict[str, Path]) -> None:
    rows = make_rows()
    moves = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(resolve_base(BaseSettings(model=str(base_folders["llama"])), Quiet()), dtype=dtype)
        state = start(base)
        first = state.values.clone()
        before = mean_loss(base, rows)
        list(train_steps(base, state, rows, RECIPE))
        assert mean_loss(base, rows) < before - 0.05
        assert state.values.dtype == torch.float32
        moves[dtype] = state.values - first
    assert torch.cosine_similarity(moves[torch.float32], moves[torch.bfloat16], dim=0) > 0.9


@pytest.mark.parametrize("stop_at", [1, 4, 8])
def test_resumed_run_equals_the_uninterrupted_one(llama_base: LoadedBase, tmp_path: Path, stop_at: int) -> None:
    rows = make_rows()
    whole = start(llama_base)
    losses = [record.loss for record in train_steps(llama_base, whole, rows, RECIPE)]
    stopped = start(llama_base)
    steps = train_steps(llama_base, stopped, rows, RECIPE)
    first = [next(steps).loss for _ in range(stop_at)]
    stopped.save(tmp_path / "c.safetensors", {"tokens": 3})
    steps.close()
    resumed = start(llama_base)
    assert resumed.load(tmp_path / "c.safetensors") == {"tokens": 3}
    rest = [record.loss for record in train_steps(llama_base, resumed, rows, RECIPE)]
    assert first + rest == losses
    assert torch.equal(resumed.values, whole.values)
    assert torch.equal(resumed.variance, whole.variance)


def test_it_stops_early_and_keeps_the_best(llama_base: LoadedBase, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, heldout = make_rows(), make_heldout()
    patient = start(llama_base)
    rise(monkeypatch)
    everything = list(train_steps(llama_base, patient, rows, STOPPING.model_copy(update={"patience": 0}), heldout))
    assert len(everything) == everything[-1].steps == 90
    measured = [record.step for record in everything if record.heldout_loss is not None]
    best, end = measured[1], measured[3]

    state = start(llama_base)
    rise(monkeypatch)
    stopped = list(train_steps(llama_base, state, rows, STOPPING, heldout))
    assert stopped[-1].step == end < 90
    assert [record.loss for record in stopped] == [record.loss for record in everything[:end]]
    assert list(train_steps(llama_base, state, rows, STOPPING, heldout)) == []
    for run in (patient, state):
        assert run.best is not None
        assert (run.best.step, run.restore_best()) == (best, True)
    assert torch.equal(state.values, patient.values)

    direct = start(llama_base)
    steps = train_steps(llama_base, direct, rows, STOPPING)
    for _ in range(best):
        next(steps)
    assert torch.equal(direct.values, state.values)


@pytest.mark.parametrize("stop_at", [1, 13, 26, 39, 50])
def test_resumed_run_stops_early_where_the_uninterrupted_one_does(
    llama_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    rows, heldout = make_rows(), make_heldout()
    whole = start(llama_base)
    rise(monkeypatch)
    records = list(train_steps(llama_base, whole, rows, STOPPING, heldout))
    assert stop_at < len(records) < 90
    stopped = start(llama_base)
    rise(monkeypatch)
    steps = train_steps(llama_base, stopped, rows, STOPPING, heldout)
    for _ in range(stop_at):
        next(steps)
    stopped.save(tmp_path / "c.safetensors", {})
    steps.close()
    resumed = start(llama_base)
    resumed.load(tmp_path / "c.safetensors")
    rest = list(train_steps(llama_base, resumed, rows, STOPPING, heldout))
    seen = [(record.step, record.loss, record.heldout_loss) for record in rest]
    assert seen == [(record.step, record.loss, record.heldout_loss) for record in records[stop_at:]]
    assert whole.best is not None
    assert resumed.best is not None
    assert torch.equal(resumed.values, whole.values)
    assert torch.equal(resumed.best.values, whole.best.values)
    assert (resumed.best.step, resumed.best.loss) == (whole.best.step, whole.best.loss)
    assert (resumed.best.losses, resumed.best.misses) == (whole.best.losses, whole.best.misses)


def test_a_checkpoint_of_the_last_step_is_still_over(
    llama_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, heldout = make_rows(), make_heldout()
    rise(monkeypatch)
    whole = start(llama_base)
    list(train_steps(llama_base, whole, rows, STOPPING, heldout))
    whole.save(tmp_path / "c.safetensors", {})
    resumed = start(llama_base)
    resumed.load(tmp_path / "c.safetensors")
    assert list(train_steps(llama_base, resumed, rows, STOPPING, heldout)) == []


def test_measuring_changes_no_step(llama_base: LoadedBase) -> None:
    rows = make_rows()
    alone, watched = start(llama_base), start(llama_base)
    patient = STOPPING.model_copy(update={"patience": 0})
    list(train_steps(llama_base, alone, rows, patient))
    records = list(train_steps(llama_base, watched, rows, patient, make_heldout()))
    assert records[-1].heldout_loss == pytest.approx(mean_loss(llama_base, make_heldout()), rel=1e-6)
    assert watched.best is not None
    assert alone.best is None
    assert torch.equal(alone.values, watched.values)


def test_damaged_checkpoint_is_refused(llama_base: LoadedBase, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"broken")
    with pytest.raises(StackError, match="damaged checkpoint"):
        start(llama_base).load(tmp_path / "c.safetensors")


def test_update_is_adamw(llama_base: LoadedBase) -> None:
    state = start(llama_base)
    oracle = torch.nn.Parameter(state.values.clone())
    optimiser = torch.optim.AdamW([oracle], lr=1e-2, weight_decay=0.1)
    for seed in range(3):
        gradient = torch.randn(state.values.shape, generator=torch.Generator().manual_seed(seed)) * 1e-4
        state.gradient.copy_(gradient)
        oracle.grad = gradient.clone()
        state.update(learning_rate=1e-2, weight_decay=0.1, clip=1e9)
        optimiser.step()
    torch.testing.assert_close(state.values, oracle.data, atol=1e-6, rtol=1e-5)


def test_update_with_two_rates_is_adamw_with_two_groups(llama_base: LoadedBase) -> None:
    state = start(llama_base)
    with torch.no_grad():
        for _, second in state.pairs.values():
            second.normal_(generator=torch.Generator().manual_seed(5))  # so that its decay shows
    oracles = [[torch.nn.Parameter(pair[side].detach().clone()) for pair in state.pairs.values()] for side in (0, 1)]
    groups = [{"params": oracles[0], "lr": 1e-3}, {"params": oracles[1], "lr": 1.6e-2}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.1)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        state.gradient.copy_(torch.randn(state.values.shape, generator=generator) * 1e-4)
        for side in (0, 1):
            for oracle, pair in zip(oracles[side], state.pairs.values(), strict=True):
                assert pair[side].grad is not None
                oracle.grad = pair[side].grad.clone()
        state.update(learning_rate=1e-3, weight_decay=0.1, clip=1e9, b_rate=16.0)
        optimiser.step()
    for side in (0, 1):
        for oracle, pair in zip(oracles[side], state.pairs.values(), strict=True):
            torch.testing.assert_close(pair[side], oracle, atol=1e-6, rtol=1e-5)


def test_b_rate_moves_only_b(llama_base: LoadedBase) -> None:
    moved = {}
    for b_rate in (1.0, 4.0):
        state = start(llama_base)
        before = {path: (A.detach().clone(), B.detach().clone()) for path, (A, B) in state.pairs.items()}
        next(train_steps(llama_base, state, make_rows(), RECIPE.model_copy(update={"b_rate": b_rate})))
        moved[b_rate] = {
            path: (A.detach() - before[path][0], B.detach() - before[path][1]) for path, (A, B) in state.pairs.items()
        }
    for path, (by_a, by_b) in moved[1.0].items():
        assert torch.equal(moved[4.0][path][0], by_a)
        torch.testing.assert_close(moved[4.0][path][1], 4.0 * by_b)


def test_clipping_scales_to_the_limit(llama_base: LoadedBase) -> None:
    state = start(llama_base)
    state.gradient.fill_(1.0)
    norm = state.update(learning_rate=0.0, weight_decay=0.0, clip=1.0)
    assert norm == pytest.approx(state.values.numel() ** 0.5, rel=1e-4)
    assert float(state.mean.norm()) == pytest.approx(0.1, rel=1e-4)


def test_plan_covers_every_row_once_per_epoch() -> None:
    steps = plan_steps(10, batch_rows=4, epochs=2.5, seed=3)
    first = [row for step in steps[:3] for row in step]
    assert sorted(first) == list(range(10))
    assert [row for step in steps[3:6] for row in step] != first
    assert sum(map(len, steps)) == 25
    assert [len(step) for step in steps] == [3, 4, 3, 3, 4, 3, 2, 3]  # even within each pass, none left over


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(step, 100, peak=1.0, warmup=0.1, final_rate=0.1) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert all(earlier >= later for earlier, later in pairwise(rates[9:]))
