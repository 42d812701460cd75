"""Training: it learns, and it resumes bit for bit (law 6)."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from lamina.config import BaseSettings, Recipe
from lamina.errors import StackError
from lamina.lora.surgery import fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.loop import mean_loss, train_steps
from lamina.train.schedule import learning_rate, plan_steps
from lamina.train.state import TrainState

RECIPE = Recipe(rank=4, epochs=3, batch_rows=4, learning_rate=1e-2, micro_tokens=32)


def make_rows() -> list[TokenRow]:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(10):
        ids = torch.randint(2, 290, (6 + index,), generator=generator).tolist()
        rows.append(TokenRow(tuple(ids), tuple(place > 2 for place in range(len(ids)))))
    return rows


def start(base: LoadedBase) -> TrainState:
    return TrainState(fresh_adapter(base.model, RECIPE.rank, RECIPE.seed), base.device)


def test_it_learns_on_every_family(any_base: LoadedBase) -> None:
    rows = make_rows()
    before = mean_loss(any_base, rows, 64)
    records = list(train_steps(any_base, start(any_base), rows, RECIPE))
    assert mean_loss(any_base, rows, 64) < before - 0.05
    assert [record.step for record in records] == list(range(1, 10))
    assert sum(record.tokens for record in records) == 3 * sum(len(row.ids) for row in rows)


def test_a_bfloat16_base_learns_what_a_float32_base_learns(base_folders: dict[str, Path]) -> None:
    rows = make_rows()
    moves = {}
    for dtype in (torch.float32, torch.bfloat16):
        base = load_base(resolve_base(BaseSettings(model=str(base_folders["llama"])), Quiet()), dtype=dtype)
        state = start(base)
        first = state.values.clone()
        before = mean_loss(base, rows, 64)
        list(train_steps(base, state, rows, RECIPE))
        assert mean_loss(base, rows, 64) < before - 0.05
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
