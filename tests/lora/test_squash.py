"""Squashing: exact at full rank, the best of its rank below it, and the error it states is the true one."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lamina.lora.adapter import Adapter, Factors, combine
from lamina.lora.squash import compress, factorise, singular_values

shapes = st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 10))
seeds = st.integers(0, 10_000)


def make(d_out: int, d_in: int, rank: int, seed: int) -> Factors:
    draw = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, d_in, generator=draw), torch.randn(d_out, rank, generator=draw))


def dense(factors: Factors) -> Tensor:
    return factors.B.double() @ factors.A.double()


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@settings(deadline=None, max_examples=80)
@given(shapes, seeds, st.integers(0, 3))
def test_at_full_rank_nothing_is_lost(shape: tuple[int, int, int], seed: int, above: int) -> None:
    factors = make(*shape, seed)
    true_rank = min(shape)
    small, lost = compress({"m": factors}, rank=true_rank + above)
    assert small["m"].rank <= true_rank
    assert error(dense(small["m"]), dense(factors)) < 1e-6
    assert lost.total == 0.0


@settings(deadline=None, max_examples=80)
@given(shapes, seeds, st.integers(1, 8))
def test_the_stated_error_is_that_of_the_dense_product(shape: tuple[int, int, int], seed: int, rank: int) -> None:
    factors = make(*shape, seed)
    small, lost = compress({"m": factors}, rank=rank)
    values = torch.linalg.svdvals(dense(factors))
    expected = math.sqrt(float(values[rank:].square().sum() / values.square().sum()))
    assert lost.modules["m"] == pytest.approx(expected, abs=1e-7)
    assert error(dense(small["m"]), dense(factors)) == pytest.approx(expected, abs=1e-6)
    assert lost.ranks["m"] == small["m"].rank <= rank


@settings(deadline=None, max_examples=40)
@given(seeds, st.integers(1, 5))
def test_no_other_matrix_of_that_rank_comes_closer(seed: int, rank: int) -> None:
    wanted = make(9, 11, 6, seed)
    small, _ = compress({"m": wanted}, rank=rank)
    ours = error(dense(small["m"]), dense(wanted))
    for other in range(5):
        rival = make(9, 11, rank, seed + 1 + other)
        # The rival's columns with the best rows for them: the least squares fit.
        best = torch.linalg.lstsq(rival.B.double(), dense(wanted)).solution
        assert ours <= error(rival.B.double() @ best, dense(wanted)) + 1e-6
        nudged = Factors(small["m"].A + 1e-2 * rival.A, small["m"].B) if rival.A.shape == small["m"].A.shape else rival
        assert ours <= error(dense(nudged), dense(wanted)) + 1e-6


@settings(deadline=None, max_examples=40)
@given(seeds, st.floats(0.05, 1.0))
def test_energy_takes_the_least_rank_that_keeps_it(seed: int, energy: float) -> None:
    factors = make(10, 12, 8, seed)
    small, lost = compress({"m": factors}, energy=energy)
    squares = torch.linalg.svdvals(dense(factors)).square()
    kept = squares.cumsum(0) / squares.sum()
    rank = small["m"].rank
    assert kept[rank - 1] >= energy - 1e-9
    assert rank == 1 or kept[rank - 2] < energy
    assert 1 - lost.total**2 >= energy - 1e-9


def test_factors_are_balanced() -> None:
    factors = make(20, 30, 5, 0)
    small, _ = compress({"m": Factors(factors.A * 1000, factors.B)}, rank=5)
    assert torch.allclose(small["m"].A.norm(dim=1), small["m"].B.norm(dim=0), rtol=1e-5)


def test_the_total_weighs_maps_by_their_size() -> None:
    big = Factors(torch.eye(2), torch.diag(torch.tensor([4.0, 3.0])))
    little = Factors(torch.eye(2), torch.diag(torch.tensor([2.0, 0.0])))
    _, lost = compress({"big": big, "little": little}, rank=1)
    assert lost.modules == {"big": pytest.approx(3 / 5), "little": 0.0}
    assert lost.total == pytest.approx(math.sqrt(9 / (16 + 9 + 4)))


def test_a_layer_that_changes_nothing_stays_one() -> None:
    small, lost = compress({"m": Factors(torch.randn(4, 6), torch.zeros(5, 4))}, rank=2)
    assert (small["m"].rank, lost.total) == (1, 0.0)
    assert not dense(small["m"]).any()


def test_cancelling_layers_leave_no_rank() -> None:
    factors = make(8, 9, 3, 1)
    both: Adapter = combine([{"m": factors}, {"m": factors}], [1.0, -0.5])
    small, _ = compress(both, energy=1.0)
    assert small["m"].rank == 3
    assert error(dense(small["m"]), 0.5 * dense(factors)) < 1e-6


@pytest.mark.parametrize("how", [{}, {"rank": 0}, {"energy": 0.0}, {"energy": 1.5}, {"rank": 2, "energy": 0.5}])
def test_what_makes_no_sense_is_refused(how: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a rank from 1 or an energy"):
        compress({"m": make(3, 3, 2, 0)}, **how)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), seeds)
def test_a_dense_matrix_is_factorised_as_well_as_can_be(d_out: int, d_in: int, rank: int, seed: int) -> None:
    matrix = torch.randn(d_out, d_in, generator=torch.Generator().manual_seed(seed))
    factors, lost, whole = factorise(matrix, rank)
    squares = torch.linalg.svdvals(matrix.double()).square()
    assert lost == pytest.approx(float(squares[rank:].sum()), abs=1e-6)
    assert whole == pytest.approx(float(squares.sum()))
    assert float((dense(factors) - matrix.double()).square().sum()) == pytest.approx(lost, abs=1e-5)


def test_singular_values_are_the_products() -> None:
    factors = make(12, 10, 4, 3)
    assert torch.allclose(singular_values(factors), torch.linalg.svdvals(dense(factors))[:4], rtol=1e-9)
