"""Iso-C: the directions of the summed changes, all equally strong.

Source: Marczak et al. 2025, https://arxiv.org/abs/2502.04959, section 4.1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lamina.lora.squash import true_rank

__all__ = ["NAME", "iso_c"]

NAME = "iso-c"


def iso_c(deltas: Sequence[Tensor]) -> Tensor:
    """Return the sum of the changes with every singular value replaced by their mean.

    Args:
        deltas: changes of one map, (d_out, d_in) each.

    Departure: the paper's matrices have full rank, and its mean runs over all min(d_out, d_in) values. The sum of LoRA
    layers has none beyond its rank, and an SVD fills up with directions that mean nothing; mean and result run over
    the directions that there are.
    """
    total = torch.stack([delta.double() for delta in deltas]).sum(0)
    U, values, Vh = torch.linalg.svd(total, full_matrices=False)
    count = true_rank(values)
    merged: Tensor = values[:count].mean() * (U[:, :count] @ Vh[:count])
    return merged.to(deltas[0].dtype)
