"""A layer in less rank: the best approximation of its product, found without ever forming the product.

    B A = (Q_B R_B) (Q_A R_A)^T = Q_B (R_B R_A^T) Q_A^T        the core R_B R_A^T is R x R

The core's singular values are the product's. Everything is computed in float64, map by map.

Legend: R the rank that comes in, r the rank that stays, d_in and d_out the map's widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.lora.adapter import Adapter, Factors

__all__ = ["Lost", "compress", "factorise", "singular_values", "true_rank"]

# Rounding of float32 factors leaves singular values of this relative size where there is nothing.
_NOTHING = 1e-7


@dataclass(frozen=True, slots=True)
class Lost:
    """What a compression lost, as relative Frobenius errors of the layer's addition to each map's weight.

    Attributes:
        modules: error of each map, 0..1.
        ranks: rank that stayed in each map.
        total: error of all maps taken as one long vector, 0..1.
    """

    modules: dict[str, float]
    ranks: dict[str, int]
    total: float

    @classmethod
    def of(cls, lost: Mapping[str, float], whole: Mapping[str, float], ranks: Mapping[str, int]) -> Lost:
        """Return the errors, given the lost and the whole sum of squares of each map."""
        relative = {path: _ratio(lost[path], whole[path]) for path in whole}
        return cls(relative, dict(ranks), _ratio(math.fsum(lost.values()), math.fsum(whole.values())))


def compress(
    adapter: Adapter, *, rank: int | None = None, energy: float | None = None
) -> tuple[dict[str, Factors], Lost]:
    """Return the adapter with at most ``rank`` in every map, and what that lost.

    Keeps the largest singular values of each map's product, which no other matrix of that rank comes closer than; both
    factors get the root of each, so that they are of like size. The error is exact: it is the sum of the squares of the
    values left out. At a rank not below the true one nothing is lost but float32 rounding.

    Args:
        adapter: scale folded in, as always.
        rank: what stays in each map, from 1; None leaves it to ``energy``.
        energy: share of each map's sum of squares to keep at least, in (0, 1]; the least rank that does is taken.

    Raises:
        ValueError: unless exactly one of ``rank`` and ``energy`` is given, and in range.

    Source: Eckart & Young 1936, Psychometrika 1:211; QR of the factors first, as Halko et al. 2011, arXiv:0909.4061,
    section 5.
    """
    fits_rank, fits_energy = rank is not None and rank >= 1, energy is not None and 0.0 < energy <= 1.0
    if not ((fits_rank and energy is None) or (fits_energy and rank is None)):
        raise ValueError(f"expected a rank from 1 or an energy in (0, 1], got rank {rank} and energy {energy}")
    kept: dict[str, Factors] = {}
    lost: dict[str, float] = {}
    whole: dict[str, float] = {}
    for path, factors in adapter.items():
        U, values, Vh = _thin_svd(factors)
        squares = values.square()
        count = min(rank, len(values)) if rank is not None else _rank_for(squares, energy or 1.0)
        lost[path], whole[path] = float(squares[count:].sum()), float(squares.sum())
        kept[path] = _balanced(U[:, :count], values[:count], Vh[:count])
    return kept, Lost.of(lost, whole, {path: factors.rank for path, factors in kept.items()})


def factorise(matrix: Tensor, rank: int) -> tuple[Factors, float, float]:
    """Return the best factors of at most ``rank`` for a dense (d_out, d_in) matrix, the lost and the whole squares.

    For what is no longer of low rank, such as a sum that was trimmed entry by entry. The left directions come from the
    eigenvectors of ``M M^T``, four times faster than an SVD; what squaring costs lies below float32 in float64.
    """
    exact = matrix.double()
    if exact.shape[0] > exact.shape[1]:
        turned, lost, whole = factorise(matrix.t(), rank)
        return Factors(turned.B.t().contiguous(), turned.A.t().contiguous()), lost, whole
    squares, directions = torch.linalg.eigh(exact @ exact.t())
    squares, U = squares.flip(0).clamp(min=0.0), directions.flip(1)
    count = max(1, min(rank, int((squares > _NOTHING**2 * squares[0]).sum())))
    root = squares[:count].clamp(min=torch.finfo(torch.float64).tiny).pow(0.25)
    A, B = U[:, :count].t() @ exact / root[:, None], U[:, :count] * root
    return Factors(A.float(), B.float()), float(squares[count:].sum()), float(squares.sum())


def singular_values(factors: Factors) -> Tensor:
    """Return the singular values of the factors' product, largest first, float64; those of rounding are left out."""
    return _thin_svd(factors)[1]


def true_rank(values: Tensor) -> int:
    """Return how many singular values, largest first, are more than rounding; 1 at least."""
    return max(1, int((values > _NOTHING * values[0]).sum()))


def _thin_svd(factors: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Return U (d_out, R), the values (R) and V^T (R, d_in) of the product, without the directions of rounding."""
    Q_B, R_B = torch.linalg.qr(factors.B.detach().cpu().double())
    Q_A, R_A = torch.linalg.qr(factors.A.detach().cpu().double().t())
    U, values, Vh = torch.linalg.svd(R_B @ R_A.t(), full_matrices=False)
    # A layer that changes nothing keeps one direction of nothing, since a map without rank could not be stored.
    count = true_rank(values)
    return Q_B @ U[:, :count], values[:count], Vh[:count] @ Q_A.t()


def _rank_for(squares: Tensor, energy: float) -> int:
    kept = squares.cumsum(0)
    # Rounding of the sum itself must not ask for one rank more.
    return min(len(squares), int((kept < energy * kept[-1] * (1 - 1e-12)).sum()) + 1)


def _balanced(U: Tensor, values: Tensor, Vh: Tensor) -> Factors:
    root = values.sqrt()
    return Factors((root[:, None] * Vh).float().contiguous(), (U * root).float().contiguous())


def _ratio(lost: float, whole: float) -> float:
    return math.sqrt(max(0.0, lost) / whole) if whole > 0.0 else 0.0
