"""How large layers are and how they lie to one another, from their factors alone.

    |B A|^2 = tr((B^T B) (A A^T))        <B A, D C> = sum of (B^T D) * (A C^T)

Every matrix on the right is r x r. No product of d_out x d_in is formed.

Legend: r rank, d_in and d_out the map's widths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.lora.adapter import Adapter, Factors

__all__ = ["Comparison", "MapComparison", "adapter_norm", "compare", "delta_norm", "principal_angles"]

_NOTHING = 1e-7


@dataclass(frozen=True, slots=True)
class MapComparison:
    """Two layers on one linear map.

    Attributes:
        path: the map's.
        norm_a, norm_b: Frobenius norms of the layers' additions; 0 where a layer leaves the map alone.
        relative_a, relative_b: the same as shares of the base weight's norm, None if that is not known.
        cosine: between the additions as long vectors, -1..1; None where one of them is zero.
        column_angles, row_angles: principal angles in degrees, smallest first, between what the layers write to and
            between what they read from; empty where one of them is zero.
    """

    path: str
    norm_a: float
    norm_b: float
    relative_a: float | None
    relative_b: float | None
    cosine: float | None
    column_angles: tuple[float, ...]
    row_angles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two layers: all maps taken as one long vector, and each map by itself in the first layer's order."""

    norm_a: float
    norm_b: float
    cosine: float | None
    maps: tuple[MapComparison, ...]


def delta_norm(factors: Factors) -> float:
    """Return the Frobenius norm of the factors' product."""
    return math.sqrt(max(0.0, _inner(factors, factors)))


def adapter_norm(adapter: Adapter) -> float:
    """Return the Frobenius norm of a layer's whole addition, all maps taken as one long vector."""
    return math.sqrt(math.fsum(max(0.0, _inner(factors, factors)) for factors in adapter.values()))


def compare(a: Adapter, b: Adapter, base_norms: Mapping[str, float] | None = None) -> Comparison:
    """Return norms, angles and cosines of two layers on the same base.

    Args:
        a: a layer.
        b: another.
        base_norms: Frobenius norms of the base's weights by path, for sizes relative to them.
    """
    paths = list(dict.fromkeys([*a, *b]))
    maps = tuple(_compare_map(path, a.get(path), b.get(path), (base_norms or {}).get(path)) for path in paths)
    inner = math.fsum(_inner(a[path], b[path]) for path in a if path in b)
    norm_a, norm_b = adapter_norm(a), adapter_norm(b)
    return Comparison(norm_a, norm_b, _cosine(inner, norm_a, norm_b), maps)


def principal_angles(left: Tensor, right: Tensor) -> tuple[float, ...]:
    """Return the principal angles, in degrees and smallest first, between the column spaces of two matrices.

    Args:
        left: (d, r) of any rank.
        right: (d, s) of any rank.

    Source: Björck & Golub 1973, Math. Comp. 27:579: small angles from their sines, large ones from their cosines,
    since a cosine near one tells an angle to half the digits only.
    """
    P, Q = _orthonormal(left), _orthonormal(right)
    if P.shape[1] > Q.shape[1]:
        P, Q = Q, P
    if P.shape[1] == 0:
        return ()
    cosines = torch.linalg.svdvals(P.t() @ Q).clamp(max=1.0)
    sines = torch.linalg.svdvals(P - Q @ (Q.t() @ P)).clamp(max=1.0).flip(0)
    angles = torch.where(cosines.square() < 0.5, cosines.acos(), sines.asin())
    return tuple(torch.rad2deg(angles).tolist())


def _compare_map(path: str, a: Factors | None, b: Factors | None, base_norm: float | None) -> MapComparison:
    norm_a, norm_b = (0.0 if factors is None else delta_norm(factors) for factors in (a, b))
    share_a, share_b = (norm / base_norm if base_norm else None for norm in (norm_a, norm_b))
    if a is None or b is None or norm_a == 0.0 or norm_b == 0.0:
        return MapComparison(path, norm_a, norm_b, share_a, share_b, None, (), ())
    cosine = _cosine(_inner(a, b), norm_a, norm_b)
    columns, rows = principal_angles(a.B, b.B), principal_angles(a.A.t(), b.A.t())
    return MapComparison(path, norm_a, norm_b, share_a, share_b, cosine, columns, rows)


def _inner(a: Factors, b: Factors) -> float:
    A, B, C, D = (factor.detach().cpu().double() for factor in (a.A, a.B, b.A, b.B))
    return float(((B.t() @ D) * (A @ C.t())).sum())


def _cosine(inner: float, norm_a: float, norm_b: float) -> float | None:
    return max(-1.0, min(1.0, inner / (norm_a * norm_b))) if norm_a > 0.0 and norm_b > 0.0 else None


def _orthonormal(columns: Tensor) -> Tensor:
    U, values, _ = torch.linalg.svd(columns.detach().cpu().double(), full_matrices=False)
    kept: Tensor = U[:, values > _NOTHING * values[:1].clamp(min=torch.finfo(torch.float64).tiny)]
    return kept
