"""Frozen layers on a map: few ranks stay factors, many are folded, and neither changes the original (law 9)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from lamina.lora.adapter import Factors
from lamina.lora.linear import LoRALinear, product_of
from lamina.lora.surgery import attach, detach, fresh_adapter

D_IN, D_OUT = 80, 48
FEW, MANY = 3, 4  # ranks on either side of a tenth of the map's own cost, 0.1 * 80 * 48 / (80 + 48) = 3


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make_linear(dtype: torch.dtype, *, bias: bool = False) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(D_IN, D_OUT, bias=bias, dtype=dtype).requires_grad_(False)


def make_factors(rank: int, seed: int = 1) -> Factors:
    return Factors(normal(rank, D_IN, seed=seed), normal(D_OUT, rank, seed=seed + 1) * 0.1)


def wrap(linear: nn.Linear) -> LoRALinear:
    return LoRALinear(linear, linear.weight.detach(), linear.bias)


def sum_of(linear: nn.Linear, factors: Factors) -> Tensor:
    return linear.weight.double() + factors.B.double() @ factors.A.double()


def test_few_ranks_stay_factors_and_many_are_folded() -> None:
    linear = make_linear(torch.float32)
    few, many = wrap(linear), wrap(linear)
    few.freeze(make_factors(FEW))
    many.freeze(make_factors(MANY))
    assert few.frozen is not None
    assert few.frozen.rank == FEW
    assert few.weight.data_ptr() == linear.weight.data_ptr()
    assert many.frozen is None
    assert many.weight.data_ptr() != linear.weight.data_ptr()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 60), st.integers(0, 1000), st.booleans())
def test_both_forms_are_the_sum_in_float32(rank: int, seed: int, bias: bool) -> None:
    linear, factors, x = make_linear(torch.float32, bias=bias), make_factors(rank, seed), normal(7, D_IN, seed=seed + 2)
    wrapper = wrap(linear)
    wrapper.freeze(factors)
    expected = x.double() @ sum_of(linear, factors).t() + (linear.bias.double() if bias else 0.0)
    found = wrapper(x).double()
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@settings(deadline=None, max_examples=25)
@given(st.integers(MANY, 60), st.integers(0, 1000))
def test_folding_into_bfloat16_rounds_the_sum_once(rank: int, seed: int) -> None:
    linear, factors = make_linear(torch.bfloat16), make_factors(rank, seed)
    wrapper = wrap(linear)
    wrapper.freeze(factors)
    exact = sum_of(linear, factors)
    assert wrapper.weight.dtype == torch.bfloat16
    # A unit in the last of bfloat16's eight places, up or down, and the rounding of the sum in float32.
    _, exponent = torch.frexp(exact)
    unit = torch.ldexp(torch.ones_like(exact), exponent - 8)
    assert ((wrapper.weight.double() - exact).abs() <= unit + 1e-6 * exact.abs().max()).all()
    again = wrap(linear)
    again.freeze(factors)
    assert torch.equal(again.weight, wrapper.weight)


@pytest.mark.parametrize("rank", [1, 60])
def test_a_young_layer_does_not_vanish_in_bfloat16(rank: int) -> None:
    """What a layer adds may be a thousandth of what it is added to, less than half a step of bfloat16's grid."""
    weight = normal(256, 256, seed=1).bfloat16()
    plain = nn.Linear(256, 256, bias=False).requires_grad_(False)
    plain.weight.data = weight
    small = 2.0**-11 / rank**0.5
    factors = Factors(normal(rank, 256, seed=2), normal(256, rank, seed=3) * small)
    wrapper = LoRALinear(plain, weight, None)
    wrapper.freeze(factors)
    assert (wrapper.frozen is None) == (rank == 60)
    x = normal(512, 256, seed=4).bfloat16()
    added = wrapper(x).double() - x.double() @ weight.double().t()
    exact = x.double() @ (factors.B.double() @ factors.A.double()).t()
    share = (added * exact).sum() / exact.square().sum()
    assert 0.85 < share < 1.15


@pytest.mark.parametrize("rank", [FEW, MANY])
def test_a_transposed_map_is_summed_like_any_other(rank: int) -> None:
    torch.manual_seed(0)
    conv, factors, x = Conv1D(D_OUT, D_IN).requires_grad_(False), make_factors(rank), normal(7, D_IN, seed=3)
    wrapper = LoRALinear(conv, conv.weight.detach().t(), conv.bias)
    wrapper.freeze(factors)
    expected = conv(x).double() + x.double() @ (factors.B.double() @ factors.A.double()).t()
    assert (wrapper(x).double() - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_maps_that_share_an_input_give_together_what_each_gives_alone() -> None:
    linears = [make_linear(torch.float32, bias=bias) for bias in (True, False, True, False)]
    x, add = normal(7, D_IN, seed=5), normal(7, 4 * D_OUT, seed=6)
    maps: list[nn.Module] = [wrap(linears[0]), wrap(linears[1]), linears[2], wrap(linears[3])]
    for wrapper, rank in ((maps[0], FEW), (maps[1], MANY)):
        assert isinstance(wrapper, LoRALinear)
        wrapper.freeze(make_factors(rank, seed=rank))
    for wrapper in (maps[0], maps[3]):
        assert isinstance(wrapper, LoRALinear)
        wrapper.trained = (nn.Parameter(normal(2, D_IN, seed=7)), nn.Parameter(normal(D_OUT, 2, seed=8)))
        wrapper.scale = 1.5
    alone = torch.cat([each(x) for each in maps], 1).detach()
    with torch.no_grad():
        torch.testing.assert_close(product_of(maps, x.dtype).forward(x)[0], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(product_of(maps, x.dtype).forward(x, add)[0], alone + add, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 30])
def test_detaching_restores_weights_that_are_views_of_one_bit_for_bit(dtype: torch.dtype, rank: int) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4, vocab_size=300
    )
    model = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attention = model.model.layers[0].self_attn
    product_of([attention.q_proj, attention.k_proj, attention.v_proj], dtype)
    places = [each.weight.data_ptr() for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    assert places[1] == places[0] + attention.q_proj.weight.nbytes
    fresh = fresh_adapter(model, rank, seed=0)
    attach(model, [{path: Factors(f.A, normal(*f.B.shape, seed=1)) for path, f in fresh.items()}])
    assert isinstance(attention.q_proj, LoRALinear)
    assert (attention.q_proj.frozen is None) == (rank == 30)
    detach(model)
    assert places == [each.weight.data_ptr() for each in (attention.q_proj, attention.k_proj, attention.v_proj)]
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)
