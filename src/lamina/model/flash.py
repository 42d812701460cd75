"""Attention within the rows of a bucket by torch's own kernels: the way on GPUs, where they are flash kernels.

Only queries, keys and values are kept; backward runs the kernel's forward again and asks autograd for the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from lamina.kernels.shapes import Heads, Places, Slopes

__all__ = ["flash_attention", "flash_slopes"]


def flash_attention(
    q: Tensor, k: Tensor, v: Tensor, places: Places, heads: Heads, *, scale: float, window: int
) -> Tensor:
    """Return the attended values, (n G, s Q, d), of queries (n G, s Q, d) on keys and values (n G, L, d).

    A query sees the keys up to its own place, which lies ``places.prefix`` behind its index, and at most ``window``
    places back (0: all).
    """
    queries = q.view(places.rows, heads.heads, places.looking, heads.width)
    keys, values = (each.view(places.rows, heads.groups, places.length, heads.width) for each in (k, v))
    out = F.scaled_dot_product_attention(
        queries, keys, values, attn_mask=_mask(places, window, q.device), scale=scale, enable_gqa=True
    )
    return out.reshape(q.shape)


def flash_slopes(
    g: Tensor, q: Tensor, k: Tensor, v: Tensor, places: Places, heads: Heads, *, scale: float, window: int
) -> Slopes:
    """Return the gradients of q, k and v for that of the output."""
    with torch.enable_grad():
        q, k, v = (each.detach().requires_grad_() for each in (q, k, v))
        out = flash_attention(q, k, v, places, heads, scale=scale, window=window)
        dq, dk, dv = torch.autograd.grad(out, (q, k, v), g)
    return dq.contiguous(), dk.contiguous(), dv.contiguous()


def _mask(places: Places, window: int, device: torch.device) -> Tensor:
    if not window or window >= places.length:
        # A mask that is known to be causal costs nothing; a tensor would rule flash kernels out.
        causal: Tensor = causal_lower_right(places.looking, places.length)
        return causal
    at = torch.arange(places.looking, device=device)[:, None] + places.prefix
    back = at - torch.arange(places.length, device=device)
    return (back >= 0) & (back < window)
