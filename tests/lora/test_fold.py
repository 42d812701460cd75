"""Folding: the sum of all layers goes into the weights with one rounding, and the drift it states is the true one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamina.errors import StackError
from lamina.lora.adapter import Factors
from lamina.lora.fold import fold

seeds = st.integers(0, 10_000)


def make(rank: int, seed: int, size: float = 1.0, d_out: int = 24, d_in: int = 32) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    scale = size / math.sqrt(rank)
    return Factors(torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw) * scale)


def dense(factors: Factors) -> Tensor:
    return factors.B.double() @ factors.A.double()


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 6), st.floats(-2, 2)), min_size=1, max_size=8), seeds)
def test_in_float32_the_folded_weight_is_the_sum(parts: list[tuple[int, float]], seed: int) -> None:
    weight = torch.randn(24, 32, generator=torch.Generator().manual_seed(seed))
    layers = [make(rank, seed + place) for place, (rank, _) in enumerate(parts)]
    scales = [scale for _, scale in parts]
    folded, _ = fold({"m": weight}, [{"m": layer} for layer in layers], scales, torch.float32)
    wanted = weight.double() + sum(s * dense(layer) for layer, s in zip(layers, scales, strict=True))
    assert float((folded["m"].double() - wanted).norm() / wanted.norm()) < 1e-6


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_the_drift_is_that_of_one_rounding(seed: int) -> None:
    """Eight layers of 2 % of the weight each: one rounding loses what one rounding must, eight lose far more."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(24, 32, generator=draw).to(torch.bfloat16)
    layers = [make(4, seed + place, size=0.02) for place in range(8)]
    total = sum(dense(layer) for layer in layers)
    folded, drift = fold({"m": weight}, [{"m": layer} for layer in layers], [1.0] * 8, torch.bfloat16)
    lost = folded["m"].double() - weight.double() - total
    assert drift.total == drift.modules["m"] == pytest.approx(float(lost.norm() / total.norm()))
    once = (weight.double() + total).to(torch.bfloat16).double() - weight.double() - total
    assert drift.total <= float(once.norm() / total.norm()) * 1.01

    step_by_step = weight
    for layer in layers:
        step_by_step = (step_by_step.double() + dense(layer)).to(torch.bfloat16)
    sequential = float((step_by_step.double() - weight.double() - total).norm() / total.norm())
    assert drift.total < 0.75 * sequential


def test_only_adapted_maps_come_back() -> None:
    folded, drift = fold({"m": torch.ones(24, 32), "n": torch.ones(2, 2)}, [{"m": make(2, 0)}], [0.0], torch.float32)
    assert list(folded) == ["m"]
    assert folded["m"].equal(torch.ones(24, 32))
    assert drift.total == 0.0


@pytest.mark.parametrize("weights", [{}, {"m": torch.ones(32, 24)}])
def test_a_layer_of_another_base_is_refused(weights: dict[str, Tensor]) -> None:
    with pytest.raises(StackError, match="layer does not fit the base: m is"):
        fold(weights, [{"m": make(2, 0)}], [1.0], torch.float32)
