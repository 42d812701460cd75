"""Whole layers merged map by map, and what that loses.

``concat`` is exact: the layers side by side, each with its scalar. The other methods give a dense change per map that
goes back to factors. KnOTS and Iso-C never leave the span of the layers' own factors and are computed inside it, exact
at the sum of the ranks; TIES and DARE work entry by entry, and what does not fit the rank is lost and reported.

Legend: R the sum of the layers' ranks in a map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lamina.lora.adapter import Adapter, Factors
from lamina.lora.squash import Lost, factorise
from lamina.merge import dare, iso, knots, ties

__all__ = ["METHODS", "THINNED", "merge_dense"]

Merged = tuple[Factors, float, float]
METHODS = ("concat", ties.NAME, dare.NAME, knots.NAME, iso.NAME)
# Methods with a share of entries to keep.
THINNED = (ties.NAME, dare.NAME, knots.NAME)


def merge_dense(
    adapters: Sequence[Adapter],
    method: str,
    *,
    density: float = 1.0,
    seed: int = 0,
    rank: int | None = None,
    tick: Callable[[float], None] = lambda amount: None,
) -> tuple[dict[str, Factors], Lost]:
    """Return one adapter out of several by a method other than ``concat``, and what its rank lost.

    Args:
        adapters: the layers; a map that one of them leaves alone is merged out of the others.
        method: one of ``METHODS``.
        density: share of entries that stay, for the methods in ``THINNED``.
        seed: of DARE's draw.
        rank: of each map; None means the sum of the layers' ranks there.
        tick: advances by one per map.
    """
    merged: dict[str, Factors] = {}
    lost: dict[str, float] = {}
    whole: dict[str, float] = {}
    for index, path in enumerate(dict.fromkeys(path for adapter in adapters for path in adapter)):
        parts = [adapter[path] for adapter in adapters if path in adapter]
        most = rank or sum(part.rank for part in parts)
        merged[path], lost[path], whole[path] = _merge_map(parts, method, density, seed * 100_003 + index, most)
        tick(1)
    return merged, Lost.of(lost, whole, {path: factors.rank for path, factors in merged.items()})


def _merge_map(parts: Sequence[Factors], method: str, density: float, seed: int, rank: int) -> Merged:
    if method == ties.NAME:
        return factorise(ties.ties([_dense(part) for part in parts], density), rank)
    if method == dare.NAME:
        return factorise(dare.dare([_dense(part) for part in parts], density, seed), rank)
    B, ups = _in_own_span([part.B for part in parts])
    if method == knots.NAME:
        core = [up @ part.A.double() for up, part in zip(ups, parts, strict=True)]
        return _widen(factorise(knots.knots(core, density), rank), B, None)
    A, downs = _in_own_span([part.A.t() for part in parts])
    core = [up @ down.t() for up, down in zip(ups, downs, strict=True)]
    return _widen(factorise(iso.iso_c(core), rank), B, A)


def _dense(factors: Factors) -> Tensor:
    return factors.B @ factors.A


def _in_own_span(columns: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Return an orthonormal basis of all columns, (d, R) at most, and each matrix's coordinates in it."""
    Q, R = torch.linalg.qr(torch.cat(list(columns), dim=1).double())
    return Q, list(R.split([each.shape[1] for each in columns], dim=1))


def _widen(found: Merged, columns: Tensor, rows: Tensor | None) -> Merged:
    factors, lost, whole = found
    A = factors.A if rows is None else (factors.A.double() @ rows.t()).float()
    return Factors(A, (columns @ factors.B.double()).float()), lost, whole
