"""KnOTS: bring changes into one basis by a joint SVD, and merge there.

    [D_1 ... D_n] = U S [V_1 ... V_n]        merged = U ties(S V_1, ..., S V_n)

Source: Stoica et al. 2024, https://arxiv.org/abs/2410.19735, section 4, merged by TIES as in its best results.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lamina.lora.squash import true_rank
from lamina.merge.ties import ties

__all__ = ["NAME", "knots"]

NAME = "knots"


def knots(deltas: Sequence[Tensor], density: float = 1.0) -> Tensor:
    """Return one change out of several to the same map, merged by TIES in the basis of their joint SVD.

    Turning all changes' outputs alike turns the result alike, so they may be given in any orthonormal basis of what
    they write to.

    Args:
        deltas: changes of one map, (d_out, d_in) each.
        density: share of the entries of each S V_i that stays, in (0, 1]; the authors' configurations keep all.
    """
    U, values, Vh = torch.linalg.svd(torch.cat(list(deltas), dim=1).double(), full_matrices=False)
    count = true_rank(values)
    aligned = (values[:count, None] * Vh[:count]).split([delta.shape[1] for delta in deltas], dim=1)
    merged: Tensor = U[:, :count] @ ties(aligned, density)
    return merged.to(deltas[0].dtype)
