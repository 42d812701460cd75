"""TIES: trim small changes, elect a sign for each entry, average those that agree.

Source: Yadav et al. 2023, https://arxiv.org/abs/2306.01708, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["NAME", "ties"]

NAME = "ties"


def ties(deltas: Sequence[Tensor], density: float = 0.2) -> Tensor:
    """Return one change out of several to the same map.

    Of each change the ``density`` largest entries by magnitude stay. An entry's sign is that of their sum; the result
    is the mean of the entries with that sign that are not zero.

    Args:
        deltas: changes of one map, (d_out, d_in) each.
        density: share of entries that stay, in (0, 1]; the paper's 0.2.

    Departures: the paper trims whole models, this one map at a time, so that small maps are not emptied by large ones;
    an entry whose sum is exactly zero stays zero, where the authors' code takes the majority's sign.
    """
    trimmed = torch.stack([_trim(delta, density) for delta in deltas])
    agreeing = trimmed * (trimmed.sign() == trimmed.sum(0).sign())
    count = (agreeing != 0).sum(0).clamp(min=1)
    return agreeing.sum(0) / count


def _trim(delta: Tensor, density: float) -> Tensor:
    count = max(1, round(density * delta.numel()))
    if count >= delta.numel():
        return delta
    flat = delta.flatten()
    places = flat.abs().topk(count).indices
    return torch.zeros_like(flat).index_copy(0, places, flat[places]).view_as(delta)
