"""Law 4: packing never lets one sample see another. Law 5: a step's loss does not depend on how it is cut."""

import pytest
import torch

from lamina.config import Recipe
from lamina.lora.adapter import Factors
from lamina.lora.surgery import attach, detach, fresh_adapter, linear_paths, set_trained
from lamina.model.base import LoadedBase
from lamina.model.packed import make_pack, plain_states
from lamina.records import TokenRow
from lamina.train.memory import MicroBatch
from lamina.train.passes import accumulate
from lamina.train.state import TrainState


def make_rows(lengths: list[int]) -> list[TokenRow]:
    generator = torch.Generator().manual_seed(1)
    rows = []
    for length in lengths:
        ids = torch.randint(2, 290, (length,), generator=generator).tolist()
        rows.append(TokenRow(tuple(ids), tuple(index >= length // 2 for index in range(length))))
    return rows


def random_adapter(base: LoadedBase, rank: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, rank, seed)
    return {path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.05) for path, f in fresh.items()}


@torch.no_grad()
def test_packed_states_equal_single_ones(any_base: LoadedBase) -> None:
    rows = make_rows([5, 17, 11])
    assert any_base.packed
    together, _ = any_base.last_states(rows)
    alone = torch.cat([any_base.last_states([row])[0] for row in rows])
    plain = plain_states(any_base.model, make_pack(rows, any_base.device))
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(together, plain, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_does_not_notice_its_neighbour_change(llama_base: LoadedBase) -> None:
    first, second, other = make_rows([9, 12, 12])
    one, _ = llama_base.last_states([first, second])
    two, _ = llama_base.last_states([first, other])
    assert torch.equal(one[: first.trained_count], two[: first.trained_count])
    assert not torch.allclose(one[first.trained_count :], two[first.trained_count :])


@pytest.mark.parametrize("budget", [16, 30, 4096])
def test_gradient_does_not_depend_on_the_cut(any_base: LoadedBase, budget: int) -> None:
    rows = make_rows([4, 14, 9, 15])
    recipe = Recipe(rank=4)

    def gradient(micro_tokens: int) -> tuple[float, torch.Tensor]:
        detach(any_base.model)
        attach(any_base.model, [random_adapter(any_base, 2, seed=3)])
        state = TrainState(random_adapter(any_base, recipe.rank, seed=5), any_base.device)
        set_trained(any_base.model, state.pairs, 2.0)
        loss = accumulate(any_base, state, rows, MicroBatch(micro_tokens)).loss
        return loss, state.gradient.clone()

    whole_loss, whole = gradient(10_000)
    cut_loss, cut = gradient(budget)
    assert cut_loss == pytest.approx(whole_loss, rel=1e-5)
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=1e-4)


def test_every_linear_map_but_the_head_is_adapted(any_base: LoadedBase) -> None:
    paths = linear_paths(any_base.model)
    assert len(paths) == 2 * {"phi3": 4, "gpt2": 4}.get(any_base.pin.family, 7)
    assert not any("lm_head" in path for path in paths)
