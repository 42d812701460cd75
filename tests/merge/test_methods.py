"""Merge methods: small numbers worked out by hand, and the properties each must have."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamina.merge.dare import dare
from lamina.merge.iso import iso_c
from lamina.merge.knots import knots
from lamina.merge.ties import ties

seeds = st.integers(0, 10_000)
counts = st.integers(1, 4)


def several(count: int, seed: int, d_out: int = 5, d_in: int = 7) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(d_out, d_in, generator=draw) for _ in range(count)]


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-5) -> bool:
    return float((found - wanted).norm()) <= tolerance * max(1.0, float(wanted.norm()))


def test_ties_by_hand() -> None:
    # Half of four entries stay: 4 and -3 of the first, -5 and 2 of the second, 6 and 1 of the third.
    #   first   4  .  -3  .
    #   second  . -5   2  .
    #   third   6  .   .  1
    #   sums   10 -5  -1  1   -> signs + - - +
    # Mean of those that agree: (4 + 6) / 2, -5, -3 alone (2 disagrees), 1.
    deltas = [torch.tensor([row]) for row in ([4.0, 1.0, -3.0, 0.5], [0.2, -5.0, 2.0, -1.0], [6.0, 0.3, -0.4, 1.0])]
    assert ties(deltas, 0.5).tolist() == [[5.0, -5.0, -3.0, 1.0]]


def test_ties_keeps_an_even_fight_at_zero() -> None:
    assert ties([torch.tensor([[2.0, 1.0]]), torch.tensor([[-2.0, 3.0]])], 1.0).tolist() == [[0.0, 2.0]]


def test_ties_keeps_the_share_it_is_told_to() -> None:
    (delta,) = several(1, 3, 20, 20)
    assert int((ties([delta], 0.2) != 0).sum()) == 80
    assert int((ties([delta], 1e-9) != 0).sum()) == 1


def test_knots_by_hand() -> None:
    # Side by side [[3, 0, 0, 4], [0, 0, 0, 0]] has one singular value 5, U = (1, 0), V = (0.6, 0, 0, 0.8).
    # S V_1 = (3, 0), S V_2 = (0, 4): nothing disagrees, each entry is the mean of its one non-zero value.
    first, second = torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])
    assert torch.allclose(knots([first, second]), torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    # The same turned by 45 degrees: TIES entry by entry would find the rows alike, KnOTS finds one direction.
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]]) / math.sqrt(2)
    assert torch.allclose(knots([turn @ first, turn @ second]), turn @ torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    # Opposed changes: S V_1 = 3, S V_2 = -1 in one direction; the sum elects +, so 3 alone stays.
    assert torch.allclose(knots([first, -first / 3]), first)


def test_iso_c_by_hand() -> None:
    # The sum [[3, 0], [0, 1]] has singular values 3 and 1, mean 2, along the axes.
    found = iso_c([torch.tensor([[2.0, 0.0], [0.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])])
    assert torch.allclose(found, torch.tensor([[2.0, 0.0], [0.0, 2.0]]))
    # Of rank one there is one direction, and its mean is itself.
    assert torch.allclose(iso_c([torch.tensor([[0.0, 4.0], [0.0, 0.0]])]), torch.tensor([[0.0, 4.0], [0.0, 0.0]]))


def test_dare_by_hand() -> None:
    # What stays is divided by the share that stays, what is dropped is zero: 0, 4 or 8 for two layers of 2 at 1/2.
    deltas = [torch.full((30, 30), 2.0)] * 2
    found = dare(deltas, 0.5, seed=1)
    assert set(found.unique().tolist()) == {0.0, 4.0, 8.0}


@settings(deadline=None, max_examples=40)
@given(counts, seeds, st.permutations(range(4)))
def test_the_order_of_layers_does_not_matter(count: int, seed: int, order: list[int]) -> None:
    deltas = several(count, seed)
    turned = [deltas[place] for place in order if place < count]
    assert close(ties(turned, 0.4), ties(deltas, 0.4))
    assert close(knots(turned, 1.0), knots(deltas, 1.0))
    assert close(iso_c(turned), iso_c(deltas))
    assert close(dare(turned, 1.0), dare(deltas, 1.0))


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.1, 3.0))
def test_one_layer_is_itself(seed: int, scale: float) -> None:
    (delta,) = several(1, seed)
    delta = delta * scale
    assert close(ties([delta], 1.0), delta)
    assert close(knots([delta]), delta)
    assert close(dare([delta], 1.0), delta)
    assert close(knots([delta, delta]), delta)  # and so are two of the same


@settings(deadline=None, max_examples=40)
@given(counts, seeds, st.floats(0.01, 100.0))
def test_every_method_scales_with_its_layers(count: int, seed: int, scale: float) -> None:
    deltas = several(count, seed)
    grown = [scale * delta for delta in deltas]
    for method in (lambda some: ties(some, 0.3), knots, iso_c, lambda some: dare(some, 0.5, 7)):
        assert close(method(grown) / scale, method(deltas), 1e-4)


@settings(deadline=None, max_examples=10)
@given(st.floats(0.2, 0.9), st.integers(0, 1000))
def test_dare_keeps_the_mean(density: float, start: int) -> None:
    deltas = several(2, start, 3, 4)
    draws = 600
    mean = sum(dare(deltas, density, start + seed) for seed in range(draws)) / draws
    total = deltas[0] + deltas[1]
    # Each entry's draws have variance (d1^2 + d2^2) (1 - p) / p; six standard errors are never left by chance.
    spread = ((deltas[0] ** 2 + deltas[1] ** 2) * (1 - density) / density / draws).sqrt()
    assert bool(((mean - total).abs() <= 6 * spread + 1e-6).all())


def test_dare_is_the_same_for_the_same_seed() -> None:
    deltas = several(2, 0)
    assert torch.equal(dare(deltas, 0.5, 3), dare(deltas, 0.5, 3))
    assert not torch.equal(dare(deltas, 0.5, 3), dare(deltas, 0.5, 4))


@settings(deadline=None, max_examples=40)
@given(counts, seeds)
def test_iso_c_makes_all_directions_equally_strong(count: int, seed: int) -> None:
    deltas = several(count, seed)
    before = torch.linalg.svdvals(sum(deltas))
    after = torch.linalg.svdvals(iso_c(deltas))
    assert torch.allclose(after, before.mean().expand_as(after), rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_knots_merges_in_the_joint_basis(seed: int) -> None:
    """However the outputs are turned, the result turns with them: TIES alone does not have that."""
    deltas = several(3, seed)
    turn, _ = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(seed + 1)))
    assert close(knots([turn @ delta for delta in deltas]), turn @ knots(deltas), 1e-4)
    U, values, Vh = torch.linalg.svd(torch.cat(deltas, 1).double(), full_matrices=False)
    parts = (values[:, None] * Vh).split(7, dim=1)
    assert close(knots(deltas, 0.5), (U @ ties(parts, 0.5)).float())


@pytest.mark.parametrize("method", [ties, knots, iso_c, dare])
def test_nothing_merges_to_nothing(method: object) -> None:
    assert not method([torch.zeros(3, 4), torch.zeros(3, 4)]).any()  # type: ignore[operator]
