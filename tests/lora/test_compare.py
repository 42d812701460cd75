"""Comparisons from factors agree with those of the dense products."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamina.lora.adapter import Factors
from lamina.lora.compare import adapter_norm, compare, delta_norm, principal_angles

seeds = st.integers(0, 10_000)


def make(rank: int, seed: int, d_out: int = 9, d_in: int = 12) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw))


def dense(factors: Factors) -> Tensor:
    return factors.B.double() @ factors.A.double()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 10), st.integers(1, 10), seeds)
def test_norms_and_cosines_are_those_of_the_products(rank: int, other: int, seed: int) -> None:
    a, b = make(rank, seed), make(other, seed + 1)
    found = compare({"m": a}, {"m": b}).maps[0]
    assert found.norm_a == pytest.approx(float(dense(a).norm()), rel=1e-9)
    assert found.norm_b == pytest.approx(float(dense(b).norm()), rel=1e-9)
    expected = float((dense(a) * dense(b)).sum() / dense(a).norm() / dense(b).norm())
    assert found.cosine == pytest.approx(expected, abs=1e-9)
    assert delta_norm(a) == found.norm_a


def test_angles_of_known_planes() -> None:
    # x-y plane and a plane through x, tilted by 30 degrees about it: angles 0 and 30.
    flat = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    tilted = torch.tensor([[1.0, 0.0], [0.0, math.cos(math.pi / 6)], [0.0, math.sin(math.pi / 6)]])
    assert principal_angles(flat, tilted) == pytest.approx((0.0, 30.0), abs=1e-5)
    assert principal_angles(flat, torch.tensor([[0.0], [0.0], [2.0]])) == pytest.approx((90.0,))
    assert principal_angles(flat, torch.zeros(3, 2)) == ()


def test_small_angles_keep_their_digits() -> None:
    line, near = torch.tensor([[1.0], [0.0]]).double(), torch.tensor([[1.0], [1e-9]]).double()
    assert principal_angles(line, near)[0] == pytest.approx(math.degrees(1e-9), rel=1e-6)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), seeds)
def test_a_layer_lies_on_itself_however_it_is_factored(rank: int, seed: int) -> None:
    a = make(rank, seed)
    turn, _ = torch.linalg.qr(torch.randn(rank, rank, generator=torch.Generator().manual_seed(seed)))
    same = Factors(turn @ a.A, a.B @ turn.t())
    found = compare({"m": a}, {"m": same}).maps[0]
    assert found.cosine == pytest.approx(1.0, abs=1e-6)
    assert max(found.column_angles) < 1e-3
    assert max(found.row_angles) < 1e-3


def test_layers_in_different_maps_share_nothing() -> None:
    a, b = {"one": make(2, 0), "both": make(2, 1)}, {"both": make(3, 2), "two": make(1, 3)}
    found = compare(a, b, {"one": 10.0})
    assert [each.path for each in found.maps] == ["one", "both", "two"]
    one, both, two = found.maps
    assert (one.norm_b, one.cosine, one.column_angles) == (0.0, None, ())
    assert one.relative_a == pytest.approx(one.norm_a / 10)
    assert (two.norm_a, two.relative_b) == (0.0, None)
    assert len(both.column_angles) == 2
    assert found.norm_a == pytest.approx(math.hypot(one.norm_a, both.norm_a))
    expected = both.cosine * both.norm_a * both.norm_b / found.norm_a / found.norm_b  # type: ignore[operator]
    assert found.cosine == pytest.approx(expected)
    assert adapter_norm({}) == 0.0
