"""The algebra's laws on a whole small model: what is done to layers is done to the logits."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import Layers, draw_layers, error, folded_logits, logits, summed_logits

from lamina.lora.adapter import combine, rescale, scale_of
from lamina.lora.squash import compress
from lamina.model.base import LoadedBase

IDS = torch.arange(3, 27).view(2, 12)


@pytest.fixture
def layers(request: pytest.FixtureRequest, llama_base: LoadedBase) -> Layers:
    return draw_layers(llama_base.model, request.param, seed=request.param)


@pytest.mark.parametrize("layers", [1, 2, 3, 8, 32], indirect=True)
def test_concatenation_is_the_sum_of_the_layers(llama_base: LoadedBase, layers: Layers) -> None:
    """1 to 32 layers of unequal ranks and scales, rsLoRA among them, each without some maps."""
    whole = combine(layers.adapters, layers.scales)
    found = logits(llama_base.model, IDS, [whole], [1.0])
    assert error(found, summed_logits(llama_base.model, IDS, layers)) < 1e-5
    assert error(logits(llama_base.model, IDS, layers.adapters, layers.scales), found) < 1e-6


@pytest.mark.parametrize("layers", [2, 7], indirect=True)
def test_the_order_does_not_matter(llama_base: LoadedBase, layers: Layers) -> None:
    pairs = list(zip(layers.adapters, layers.scales, strict=True))
    random.Random(1).shuffle(pairs)
    shuffled = logits(llama_base.model, IDS, [adapter for adapter, _ in pairs], [scale for _, scale in pairs])
    assert error(shuffled, logits(llama_base.model, IDS, layers.adapters, layers.scales)) < 1e-5


@pytest.mark.parametrize("layers", [4], indirect=True)
def test_squashed_at_full_rank_they_are_the_same(llama_base: LoadedBase, layers: Layers) -> None:
    whole = combine(layers.adapters, layers.scales)
    small, lost = compress(whole, rank=max(factors.rank for factors in whole.values()))
    assert lost.total == 0.0
    wanted = logits(llama_base.model, IDS, layers.adapters, layers.scales)
    assert error(logits(llama_base.model, IDS, [small], [1.0]), wanted) < 1e-5


@pytest.mark.parametrize("layers", [5], indirect=True)
def test_a_folded_stack_is_the_stack(llama_base: LoadedBase, layers: Layers) -> None:
    wanted = logits(llama_base.model, IDS, layers.adapters, layers.scales)
    bare = logits(llama_base.model, IDS, [], [])
    assert error(folded_logits(llama_base.model, IDS, layers.adapters, layers.scales), wanted) < 1e-5
    assert error(logits(llama_base.model, IDS, [], []), bare) == 0.0  # and the base is as it was


@pytest.mark.parametrize("layers", [3], indirect=True)
def test_folded_without_a_layer_is_the_stack_without_it(llama_base: LoadedBase, layers: Layers) -> None:
    kept = [0, 2]
    adapters, scales = [layers.adapters[i] for i in kept], [layers.scales[i] for i in kept]
    wanted = logits(llama_base.model, IDS, adapters, scales)
    assert error(folded_logits(llama_base.model, IDS, adapters, scales), wanted) < 1e-5
    assert error(logits(llama_base.model, IDS, layers.adapters, layers.scales), wanted) > 1e-3  # it did something


@pytest.mark.parametrize("layers", [2], indirect=True)
def test_added_and_dropped_again_the_base_is_bit_for_bit_the_same(llama_base: LoadedBase, layers: Layers) -> None:
    before = logits(llama_base.model, IDS, layers.adapters[:1], layers.scales[:1])
    logits(llama_base.model, IDS, layers.adapters, layers.scales)
    assert torch.equal(logits(llama_base.model, IDS, layers.adapters[:1], layers.scales[:1]), before)


@settings(deadline=None, max_examples=60)
@given(st.floats(-4, 4), st.floats(-4, 4), st.integers(1, 16), st.booleans())
def test_scales_multiply(first: float, second: float, rank: int, rslora: bool) -> None:
    draw = torch.Generator().manual_seed(rank)
    folded = scale_of(rank, 32.0, rslora=rslora)
    from lamina.lora.adapter import Factors

    layer = {"m": Factors(torch.randn(rank, 9, generator=draw), folded * torch.randn(7, rank, generator=draw))}
    twice, once = rescale(rescale(layer, first), second)["m"], rescale(layer, first * second)["m"]
    assert torch.allclose(twice.B @ twice.A, once.B @ once.A, rtol=1e-5, atol=1e-4)
