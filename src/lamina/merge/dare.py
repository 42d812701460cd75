"""DARE: drop changes at random, scale up the rest, add them.

Source: Yu et al. 2023, https://arxiv.org/abs/2311.03099, section 3.2, with task arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["NAME", "dare"]

NAME = "dare"


def dare(deltas: Sequence[Tensor], density: float = 0.5, seed: int = 0) -> Tensor:
    """Return the sum of the changes, of each of which a random share is dropped and the rest divided by what stays.

    Over all draws the mean is the plain sum.

    Args:
        deltas: changes of one map, (d_out, d_in) each.
        density: chance of an entry to stay, in (0, 1]; the paper's 1 - p.
        seed: of the draw; the same seed drops the same entries.
    """
    draw = torch.Generator().manual_seed(seed)
    total = torch.zeros_like(deltas[0])
    for delta in deltas:
        stays = torch.rand(delta.shape, generator=draw) < density
        total += delta * stays.to(delta.device) / density
    return total
