"""A stack of layers folded into the base's weights: every addition summed in float32, rounded once (law 9).

    W' = round(W + sum_i s_i B_i A_i)

Rounding after each layer instead lets every layer that is smaller than half a step of the weight's grid vanish.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.errors import StackError
from lamina.lora.adapter import Adapter, Factors, combine

__all__ = ["FoldDrift", "fold", "fold_weight"]


@dataclass(frozen=True, slots=True)
class FoldDrift:
    """What rounding took: relative Frobenius error of the additions that arrived, by map and over all maps."""

    modules: dict[str, float]
    total: float


def fold(
    weights: Mapping[str, Tensor], adapters: Sequence[Adapter], scales: Sequence[float], dtype: torch.dtype
) -> tuple[dict[str, Tensor], FoldDrift]:
    """Return the weights of the adapted maps with all ``adapters`` folded in, in ``dtype``, and what rounding took.

    Args:
        weights: the base's (d_out, d_in) by path; only those that a layer adapts are read.
        adapters: the layers.
        scales: one for each.
        dtype: what the folded weights are rounded to, once.

    Raises:
        StackError: if a layer adapts a map that the base lacks, or of another shape.
    """
    folded: dict[str, Tensor] = {}
    lost: dict[str, float] = {}
    whole: dict[str, float] = {}
    for path, factors in combine(adapters, scales).items():
        weight = weights.get(path)
        expected = None if weight is None else tuple(weight.shape)
        if weight is None or expected != (factors.B.shape[0], factors.A.shape[1]):
            found = (factors.B.shape[0], factors.A.shape[1])
            raise StackError(f"layer does not fit the base: {path} is {expected or 'missing'}, the layer's is {found}")
        folded[path] = fold_weight(weight, factors, dtype)
        delta = factors.B.to(weight.device).double() @ factors.A.to(weight.device).double()
        lost[path] = float((folded[path].double() - weight.double() - delta).square().sum())
        whole[path] = float(delta.square().sum())
    modules = {path: math.sqrt(lost[path] / whole[path]) if whole[path] else 0.0 for path in whole}
    total = math.fsum(whole.values())
    return folded, FoldDrift(modules, math.sqrt(math.fsum(lost.values()) / total) if total else 0.0)


def fold_weight(weight: Tensor, factors: Factors, dtype: torch.dtype) -> Tensor:
    """Return ``weight + B A``, computed in float32 and rounded to ``dtype`` once, to nearest."""
    A, B = (factor.to(weight.device, torch.float32) for factor in (factors.A, factors.B))
    return torch.addmm(weight.float(), B, A).to(dtype)
