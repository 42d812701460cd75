"""Bases in 8 and 4 bits: what is lost is bounded, and everything else is as exact as on the dequantised weights."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel

import lamina.lora.linear as linear_module
import lamina.lora.quantised as quantised_module
import lamina.model.base as base_module
from lamina.config import BaseSettings
from lamina.errors import MachineError
from lamina.lora.adapter import Factors
from lamina.lora.linear import LoRALinear
from lamina.lora.quantised import QuantisedLinear, require_quantiser
from lamina.lora.surgery import attach, detach, fresh_adapter, linear_paths, quantise_linears, set_trained
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.memory import MicroBatch
from lamina.train.passes import accumulate
from lamina.train.state import TrainState

IDS = torch.tensor([[5, 9, 33, 121, 7, 88, 64, 2]])
FAMILIES = ("gemma2", "gpt2", "llama", "phi3", "qwen2")
SHAPES = [(64, 96), (32, 32), (7, 5), (48, 64), (576, 100)]
Load = Callable[[str], LoadedBase]


@pytest.fixture(params=["int8", "nf4"])
def how(request: pytest.FixtureRequest) -> Literal["int8", "nf4"]:
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return request.param


@pytest.fixture
def load(how: Literal["int8", "nf4"], base_folders: dict[str, Path]) -> Load:
    def one(family: str) -> LoadedBase:
        settings = BaseSettings(model=str(base_folders[family]), quantise=how)
        return load_base(resolve_base(settings, Quiet()), dtype=torch.float32)

    return one


def random_adapter(base: LoadedBase, rank: int, seed: int) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, rank, seed)
    return {path: Factors(f.A, torch.randn(f.B.shape, generator=generator) * 0.05) for path, f in fresh.items()}


def dequantised(base: LoadedBase, folder: Path) -> PreTrainedModel:
    """Return transformers' own model with the weights that ``base`` computes with."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for path in linear_paths(base.model):
        weight = base.model.get_submodule(path).weight
        theirs = model.get_submodule(path)
        theirs.weight.data.copy_(weight if isinstance(theirs, nn.Linear) else weight.t())
    return model


def logits(base: LoadedBase) -> torch.Tensor:
    with torch.no_grad():
        return base.model(input_ids=IDS).logits


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_within_half_a_step_of_each_row(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, shape[0])[:, None]
    weight[0] = 0.0
    found = QuantisedLinear(weight, None, "int8")
    step = weight.abs().amax(1, keepdim=True) / 127
    assert ((found.weight - weight).abs() <= step * (0.5 + 1e-5)).all()
    assert not found.weight[0].any()
    assert found.codes.dtype == torch.int8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_within_half_the_widest_gap_of_each_block(shape: tuple[int, int], dtype: torch.dtype) -> None:
    pytest.importorskip("bitsandbytes")
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    found = QuantisedLinear(weight, None, "nf4")
    assert (found.weight.shape, found.weight.dtype) == (weight.shape, dtype)
    error = (found.weight.float() - weight.float()).abs().flatten()
    largest = torch.stack([block.float().abs().max() for block in weight.flatten().split(64)])
    bound = largest.repeat_interleave(64)[: len(error)]
    # The code's widest gap lies between -1 and -0.6962 (QLoRA, appendix E).
    assert (error <= bound * ((1 - 0.6961928) / 2 + (1e-5 if dtype == torch.float32 else 4e-3))).all()
    assert error.mean() / bound.mean() < 0.04


@pytest.mark.parametrize("family", FAMILIES)
def test_no_dense_linear_weight_stays(family: str, load: Load, base_folders: dict[str, Path]) -> None:
    base = load(family)
    plain = AutoModelForCausalLM.from_pretrained(base_folders[family], dtype=torch.float32)
    paths = linear_paths(base.model)
    assert paths == linear_paths(plain)
    shares = {"int8": 1 / 4 + 1 / 32, "nf4": 1 / 8 + 1 / 64}
    for path in paths:
        module, dense = base.model.get_submodule(path), plain.get_submodule(path).weight
        assert isinstance(module, QuantisedLinear)
        assert not list(module.parameters())
        held = module.codes.nbytes + module.scales.nbytes
        assert held <= dense.nbytes * shares[base.pin.quantise]
    assert base.model.get_input_embeddings().weight.dtype == torch.float32


def test_loading_lets_go_of_the_dense_weights(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    dense: list[StorageWeakRef] = []

    def watched(model: PreTrainedModel, *rest: Any) -> None:
        weights = (model.get_submodule(path).weight for path in linear_paths(model))
        dense.extend(StorageWeakRef(weight.untyped_storage()) for weight in weights)
        quantise_linears(model, *rest)

    monkeypatch.setattr(base_module, "quantise_linears", watched)
    base = load("llama")
    gc.collect()
    assert len(dense) == len(linear_paths(base.model)) == 14
    assert all(weight.expired() for weight in dense)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_computes_what_transformers_does_on_the_dequantised_weights(
    family: str, load: Load, base_folders: dict[str, Path]
) -> None:
    base = load(family)
    assert (base.fused is not None) == (family != "gpt2")
    with torch.no_grad():
        expected = dequantised(base, base_folders[family])(input_ids=IDS).logits
    torch.testing.assert_close(logits(base), expected, atol=1e-5, rtol=1e-4)
    row = TokenRow(tuple(IDS[0].tolist()), (False,) * 3 + (True,) * 5)
    with torch.no_grad():
        states, _ = base.last_states([row])
    torch.testing.assert_close(base.head.logits(states), expected[0, 2:-1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_pefts_on_the_dequantised_weights(
    family: str, load: Load, base_folders: dict[str, Path]
) -> None:
    base = load(family)
    start = random_adapter(base, 4, seed=2)
    state = TrainState(start, base.device)
    set_trained(base.model, state.pairs, 2.0)
    row = TokenRow(tuple(IDS[0].tolist()), (False,) * 3 + (True,) * 5)
    loss = accumulate(base, state, [row], MicroBatch(4096)).loss
    detach(base.model)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=list(start), fan_in_fan_out=family == "gpt2")
    oracle = get_peft_model(dequantised(base, base_folders[family]), config)
    named = dict(oracle.named_parameters())
    for path, factors in start.items():
        named[f"base_model.model.{path}.lora_A.default.weight"].data.copy_(factors.A)
        named[f"base_model.model.{path}.lora_B.default.weight"].data.copy_(factors.B)
    expected = F.cross_entropy(oracle(input_ids=IDS).logits[0, 2:-1].float(), IDS[0, 3:])
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for path, pair in state.pairs.items():
        for factor, letter in zip(pair, "AB", strict=True):
            theirs = named[f"base_model.model.{path}.lora_{letter}.default.weight"].grad
            torch.testing.assert_close(factor.grad, theirs, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_layers_go_on_and_come_off(family: str, load: Load) -> None:
    base = load(family)
    before = logits(base)
    kept = {path: base.model.get_submodule(path) for path in linear_paths(base.model)}
    state = TrainState(fresh_adapter(base.model, 4, seed=0), base.device)
    set_trained(base.model, state.pairs, 2.0)
    torch.testing.assert_close(logits(base), before, atol=1e-6, rtol=1e-5)
    attach(base.model, [random_adapter(base, 4, seed=1)])
    assert (logits(base) - before).abs().max() > 1e-3
    detach(base.model)
    assert all(base.model.get_submodule(path) is module for path, module in kept.items())
    assert torch.equal(logits(base), before)


def test_many_frozen_layers_stay_factors(load: Load) -> None:
    base = load("llama")
    codes = {path: base.model.get_submodule(path).codes.clone() for path in linear_paths(base.model)}
    attach(base.model, [random_adapter(base, 40, seed=seed) for seed in range(3)])
    for path, before in codes.items():
        wrapper = base.model.get_submodule(path)
        assert isinstance(wrapper, LoRALinear)
        assert wrapper.is_quantised
        assert wrapper.frozen is not None
        assert wrapper.frozen.rank == 120
        assert torch.equal(wrapper.original.codes, before)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "bare"])
def test_nothing_dense_is_kept_for_backward(
    family: str, trained: bool, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load(family)
    if trained:
        state = TrainState(fresh_adapter(base.model, 4, seed=0), base.device)
        set_trained(base.model, state.pairs, 2.0)
    dense: list[StorageWeakRef] = []

    def watch(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def watched(*arguments: Any) -> torch.Tensor:
            found = make(*arguments)
            dense.append(StorageWeakRef(found.untyped_storage()))
            return found

        return watched

    together = linear_module._dense
    monkeypatch.setattr(QuantisedLinear, "weight", property(watch(QuantisedLinear.weight.fget)))
    monkeypatch.setattr(linear_module, "_dense", lambda maps: watch(together(maps)))
    base.model.get_input_embeddings().register_forward_hook(lambda module, inputs, output: output.requires_grad_())
    states, _ = base.last_states([TokenRow(tuple(IDS[0].tolist()), (False,) + (True,) * 7)])
    used = len(dense)
    assert used
    assert all(weight.expired() for weight in dense)
    states.sum().backward()
    assert len(dense) > used
    assert all(weight.expired() for weight in dense)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    quantised_module._bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    require_quantiser("none")
    require_quantiser("int8")
    with pytest.raises(MachineError, match=r"needs the package bitsandbytes.*pip install 'lamina\[quantise\]'"):
        require_quantiser("nf4")
