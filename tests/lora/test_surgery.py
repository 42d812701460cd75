"""Layers on and off a model, against PEFT as the oracle."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F

from lamina.config import Recipe
from lamina.lora.adapter import Factors, combine, scale_of
from lamina.lora.surgery import attach, detach, fresh_adapter, set_trained
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train.memory import MicroBatch
from lamina.train.passes import accumulate
from lamina.train.state import TrainState

IDS = torch.tensor([[5, 9, 33, 121, 7, 88, 64, 2]])


def logits(base: LoadedBase) -> torch.Tensor:
    with torch.no_grad():
        return base.model(input_ids=IDS).logits


def random_adapter(base: LoadedBase, rank: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, rank, seed)
    return {path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.05) for path, f in fresh.items()}


def test_a_fresh_layer_changes_nothing_and_detach_restores(any_base: LoadedBase) -> None:
    before = logits(any_base)
    state = TrainState(fresh_adapter(any_base.model, 4, seed=0), any_base.device)
    set_trained(any_base.model, state.pairs, 2.0)
    torch.testing.assert_close(logits(any_base), before, atol=1e-6, rtol=1e-5)
    attach(any_base.model, [random_adapter(any_base, 4, seed=1)])
    assert (logits(any_base) - before).abs().max() > 1e-3
    detach(any_base.model)
    assert torch.equal(logits(any_base), before)


def test_stacked_logits_equal_those_of_one_combined_layer(any_base: LoadedBase) -> None:
    layers = [random_adapter(any_base, rank, seed=rank) for rank in (2, 5, 3)]
    attach(any_base.model, layers, [1.0, 0.5, -1.0])
    stacked = logits(any_base)
    attach(any_base.model, [combine(layers, [1.0, 0.5, -1.0])])
    torch.testing.assert_close(logits(any_base), stacked, atol=1e-5, rtol=1e-4)


def test_gradients_equal_pefts(any_base: LoadedBase) -> None:
    start = random_adapter(any_base, 4, seed=2)
    row = TokenRow(tuple(IDS[0].tolist()), (False,) * 3 + (True,) * 5)
    recipe = Recipe(rank=4, alpha=8)
    state = TrainState(start, any_base.device)
    set_trained(any_base.model, state.pairs, scale_of(4, 8, rslora=recipe.rslora))
    loss = accumulate(any_base, state, [row], MicroBatch(4096)).loss
    detach(any_base.model)
    oracle = get_peft_model(
        any_base.model,
        LoraConfig(r=4, lora_alpha=8, target_modules=list(start), fan_in_fan_out=any_base.pin.family == "gpt2"),
    )
    named = dict(oracle.named_parameters())
    for path, factors in start.items():
        named[f"base_model.model.{path}.lora_A.default.weight"].data.copy_(factors.A)
        named[f"base_model.model.{path}.lora_B.default.weight"].data.copy_(factors.B)
    out = oracle(input_ids=IDS).logits[0, 2:-1].float()
    expected = F.cross_entropy(out, IDS[0, 3:])
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for path, (A, B) in state.pairs.items():
        theirs = named[f"base_model.model.{path}.lora_A.default.weight"].grad
        torch.testing.assert_close(A.grad, theirs, atol=1e-6, rtol=1e-3)
        theirs = named[f"base_model.model.{path}.lora_B.default.weight"].grad
        torch.testing.assert_close(B.grad, theirs, atol=1e-6, rtol=1e-3)
