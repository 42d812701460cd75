"""Rows that the parent teaches: its targets, in any cut of a step (law 5), and resumed bit for bit (law 6)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from lamina.config import Recipe
from lamina.lora.adapter import Factors
from lamina.lora.surgery import attach, fresh_adapter, set_trained, silenced
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train.loop import train_steps
from lamina.train.memory import MicroBatch
from lamina.train.passes import accumulate, mean_loss, parents_of, row_losses
from lamina.train.state import TrainState

RECIPE = Recipe(rank=4, epochs=2, batch_rows=4, learning_rate=1e-2)
TAUGHT = (0.0, 0.5, 1.0, 0.0, 0.25)


def make_rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(3)
    rows = []
    for index, share in enumerate(TAUGHT):
        ids = torch.randint(2, 290, (7 + 4 * index,), generator=generator).tolist()
        rows.append(TokenRow(tuple(ids), tuple(place > 2 + index for place in range(len(ids))), taught=share))
    return rows


def random_adapter(base: LoadedBase, rank: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, rank, seed)
    return {path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.1) for path, f in fresh.items()}


def begin(base: LoadedBase) -> TrainState:
    """Return a layer in training over a frozen one, both far from zero."""
    attach(base.model, [random_adapter(base, 2, seed=3)])
    state = TrainState(random_adapter(base, RECIPE.rank, seed=5), base.device)
    set_trained(base.model, state.pairs, 2.0)
    return state


def states_of(base: LoadedBase, row: TokenRow) -> torch.Tensor:
    return base.last_states([row])[0]


def test_the_parent_is_the_same_model_with_the_new_layer_off(any_base: LoadedBase) -> None:
    state, row = begin(any_base), make_rows()[1]
    with torch.no_grad():
        whole = states_of(any_base, row)
        with silenced(any_base.model):
            parent = states_of(any_base, row)
        assert torch.equal(states_of(any_base, row), whole)
        attach(any_base.model, [random_adapter(any_base, 2, seed=3)])
        assert torch.equal(states_of(any_base, row), parent)
    assert not torch.allclose(whole, parent)
    assert state.pairs


def test_gradient_of_taught_rows_is_plain_torchs(any_base: LoadedBase) -> None:
    rows, state = make_rows(), begin(any_base)
    total, apart, taught = torch.zeros(()), 0.0, 0
    for row in rows:
        places = [place for place, flag in enumerate(row.trained) if flag]
        with torch.no_grad(), silenced(any_base.model):
            wanted = any_base.head.logits(states_of(any_base, row)).log_softmax(-1)
        own = any_base.head.logits(states_of(any_base, row)).log_softmax(-1)
        moved = F.kl_div(own, wanted, reduction="sum", log_target=True)
        loss = F.nll_loss(own, torch.tensor(row.ids)[places], reduction="sum")
        total = total + (1 - row.taught) * loss + row.taught * moved
        if row.taught:
            apart += float(moved.detach())
            taught += row.trained_count
    (total / sum(row.trained_count for row in rows)).backward()
    expected = state.gradient.clone()
    expected_loss = float(total.detach()) / sum(row.trained_count for row in rows)

    state.gradient.zero_()
    found = accumulate(any_base, state, rows, MicroBatch(10_000), parents_of(any_base, rows))
    assert found.loss == pytest.approx(expected_loss, rel=1e-5)
    assert found.divergence == pytest.approx(apart / taught, rel=1e-4)
    assert found.divergence > 1e-4
    largest = float(expected.abs().max())
    torch.testing.assert_close(state.gradient, expected, atol=1e-5 * largest, rtol=1e-3)


@pytest.mark.parametrize("budget", [16, 40])
def test_taught_rows_do_not_depend_on_the_cut(any_base: LoadedBase, budget: int) -> None:
    found = {}
    for tokens in (10_000, budget):
        state, rows = begin(any_base), make_rows()
        summed = accumulate(any_base, state, rows, MicroBatch(tokens), parents_of(any_base, rows))
        found[tokens] = (summed, state.gradient.clone())
    whole, cut = found[10_000], found[budget]
    assert cut[0].loss == pytest.approx(whole[0].loss, rel=1e-5)
    assert cut[0].divergence == pytest.approx(whole[0].divergence, rel=1e-4)
    torch.testing.assert_close(cut[1], whole[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("stop_at", [1, 2])
def test_a_run_with_taught_rows_resumes_bit_for_bit(llama_base: LoadedBase, tmp_path: Path, stop_at: int) -> None:
    rows = make_rows()

    def start() -> TrainState:
        state = TrainState(random_adapter(llama_base, RECIPE.rank, seed=5), llama_base.device)
        state.micro = MicroBatch(32)
        return state

    whole = start()
    records = list(train_steps(llama_base, whole, rows, RECIPE))
    stopped = start()
    steps = train_steps(llama_base, stopped, rows, RECIPE)
    for _ in range(stop_at):
        next(steps)
    stopped.save(tmp_path / "c.safetensors", {})
    steps.close()
    resumed = start()
    resumed.load(tmp_path / "c.safetensors")
    rest = list(train_steps(llama_base, resumed, rows, RECIPE))
    assert [record.divergence for record in rest] == [record.divergence for record in records[stop_at:]]
    assert any(record.divergence for record in rest)
    assert torch.equal(resumed.values, whole.values)


def test_row_losses_add_up_to_the_mean(any_base: LoadedBase) -> None:
    rows = make_rows()
    losses = row_losses(any_base, rows)
    assert sum(losses) / sum(row.trained_count for row in rows) == pytest.approx(mean_loss(any_base, rows), rel=1e-5)
    assert losses[2] / rows[2].trained_count == pytest.approx(mean_loss(any_base, [rows[2]]), rel=1e-5)
