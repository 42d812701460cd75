"""Where a layer's factors start: every A at random, every B at zero, so that nothing changes yet.

Two layers that start from the same A look at their inputs from the same directions, and each then undoes some of what
the other learnt there. So a layer's draw follows from its place in the stack too, and on request it keeps to directions
that no layer below looks at.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lamina.config import Start
from lamina.lora.adapter import Adapter, Factors, combine
from lamina.lora.surgery import fresh_adapter

__all__ = ["start_factors"]

_STRIDE = 1_000_003


def start_factors(
    model: PreTrainedModel, rank: int, seed: int, how: Start, below: Sequence[Adapter]
) -> dict[str, Factors]:
    """Return the factors from which a layer on top of ``below`` starts.

    Args:
        model: the base, with or without layers on it.
        rank: of the new layer.
        seed: of the draw.
        how: ``seeded`` draws the same A whatever lies below; ``apart`` draws by the number of layers below as well;
            ``orthogonal`` then takes out of A what lies in the row space of the A below, each row's length kept.
        below: the layers of the parent stack.

    Source: ``orthogonal`` is the constraint of O-LoRA (Wang et al. 2023, arXiv:2310.14152, section 3.2), here at the
    start only: nothing holds the factors there.
    """
    drawn = fresh_adapter(model, rank, seed if how == "seeded" else seed + _STRIDE * len(below))
    if how != "orthogonal" or not below:
        return drawn
    frozen = combine(below)
    return {
        path: Factors(_turned_off(factors.A, frozen[path].A), factors.B) if path in frozen else factors
        for path, factors in drawn.items()
    }


def _turned_off(A: Tensor, frozen: Tensor) -> Tensor:
    """Return the rows of ``A`` less what lies in the row space of ``frozen``; as they are where that is everything."""
    if frozen.shape[0] >= frozen.shape[1]:
        return A
    taken = torch.linalg.qr(frozen.double().t()).Q
    wide = A.double()
    left = wide - (wide @ taken) @ taken.t()
    kept: Tensor = left * (wide.norm(dim=1, keepdim=True) / left.norm(dim=1, keepdim=True))
    return kept.float()
