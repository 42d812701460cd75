"""Whole layers merged: the same as the method on dense matrices, back in factors, with the error it states."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamina.lora.adapter import Factors
from lamina.merge.dare import dare
from lamina.merge.iso import iso_c
from lamina.merge.knots import knots
from lamina.merge.layers import METHODS, merge_dense
from lamina.merge.ties import ties

DENSE = tuple(method for method in METHODS if method != "concat")


def make(rank: int, seed: int, d_out: int = 8, d_in: int = 10) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw))


def dense(factors: Factors) -> Tensor:
    return factors.B @ factors.A


def by_hand(method: str, deltas: list[Tensor], density: float, seed: int) -> Tensor:
    if method == "ties":
        return ties(deltas, density)
    if method == "dare":
        return dare(deltas, density, seed)
    return knots(deltas, density) if method == "knots" else iso_c(deltas)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(DENSE), st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(0, 999))
def test_factors_hold_what_the_method_gives(method: str, ranks: list[int], seed: int) -> None:
    parts = [make(rank, seed + place) for place, rank in enumerate(ranks)]
    density = 1.0 if method == "knots" else 0.6  # what a density below 1 takes from S V depends on no basis but U's
    merged, lost = merge_dense([{"m": part} for part in parts], method, density=density, seed=0, rank=8)
    wanted = by_hand(method, [dense(part) for part in parts], density, 0)
    assert float((dense(merged["m"]) - wanted).norm()) <= 1e-4 * max(1.0, float(wanted.norm()))
    assert lost.total < 1e-6


@pytest.mark.parametrize("method", ["knots", "iso-c"])
def test_methods_in_the_layers_own_span_lose_nothing_at_the_sum_of_ranks(method: str) -> None:
    merged, lost = merge_dense([{"m": make(2, 0)}, {"m": make(3, 1)}], method)
    assert merged["m"].rank <= 5
    assert lost.total < 1e-6


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_what_does_not_fit_the_rank_is_reported(method: str) -> None:
    parts = [make(2, 0), make(2, 1)]
    merged, lost = merge_dense([{"m": part} for part in parts], method, density=0.5)
    wanted = by_hand(method, [dense(part) for part in parts], 0.5, 0)
    true = float((dense(merged["m"]) - wanted).norm() / wanted.norm())
    assert merged["m"].rank == 4
    assert lost.total == lost.modules["m"] == pytest.approx(true, rel=1e-4)
    assert true > 0.05


def test_a_map_of_one_layer_alone_is_merged_alone() -> None:
    ticks: list[float] = []
    merged, _ = merge_dense([{"a": make(2, 0)}, {"b": make(3, 1)}], "knots", tick=ticks.append)
    assert math.isclose(float((dense(merged["a"]) - dense(make(2, 0))).norm()), 0.0, abs_tol=1e-4)
    assert (set(merged), len(ticks)) == ({"a", "b"}, 2)
