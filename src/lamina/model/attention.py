"""Attention over packed rows in which no row sees another, registered under transformers' ``AttentionInterface``.

A packed batch is one long sequence of whole rows. Every linear map works on it as it is; here queries, keys and values
are split at the rows' ends and each row attends to itself, so that nothing is padded and nothing needs a mask between
rows.

Legend: T tokens in the pack, L tokens of one row, H heads, G groups of heads that share keys, d head width.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

__all__ = ["PACKED_ATTENTION", "packed_attention"]

PACKED_ATTENTION = "lamina_packed"

_SHORT_ROW = 512


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: tuple[int, ...] | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return causal attention within each row of a pack.

    Args:
        module: the attention block (unused; part of transformers' interface).
        query: (1, H, T, d).
        key: (1, G, T, d); H / G heads share each.
        value: (1, G, T, d).
        attention_mask: ignored; the rows' lengths say all.
        row_lengths: tokens of each row, in order, T in all.
        scaling: factor on the logits; None means 1 / sqrt(d).
        sliding_window: how many tokens back a token may look, itself included; None means all.
        softcap: logits become ``softcap * tanh(logits / softcap)`` (Gemma 2).

    Returns:
        (1, T, H, d), and no weights.

    Raises:
        ValueError: if the model did not hand the lengths through.
    """
    if row_lengths is None:
        raise ValueError("this model does not pass row_lengths to its attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = zip(*(tensor.split(row_lengths, dim=2) for tensor in (query, key, value)), strict=True)
    out = [_attend(q, k, v, scale, sliding_window, softcap).transpose(1, 2) for q, k, v in rows]
    return torch.cat(out, dim=1), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None) -> Tensor:
    length = q.shape[2]
    slides = window is not None and window < length
    if softcap is not None:
        return _softcapped(q, k, v, _band(length, window if slides else length, q.device), scale, softcap)
    if not slides and length <= _SHORT_ROW and q.dtype == torch.bfloat16 and q.device.type == "cpu":
        short: Tensor = _ShortRow.apply(q, k, v, scale)  # type: ignore[no-untyped-call]
        return short
    band = _band(length, window, q.device) if slides else None
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=band, is_causal=band is None, scale=scale, enable_gqa=k.shape[1] != q.shape[1]
    )


class _ShortRow(torch.autograd.Function):
    """Causal attention by whole matrix products, for rows whose (H, L, L) weights are small enough to keep.

    torch's flash kernel for the CPU works in small tiles that bfloat16 units cannot fill; on short rows two batched
    products forward and four backward are two to three times faster. Heads that share keys are stacked as further
    queries, so keys are never repeated and their gradients come out summed.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        _, heads, length, width = q.shape
        groups = k.shape[1]
        stacked = q.reshape(groups, -1, width)
        k, v = k[0], v[0]
        weights = torch.bmm(stacked, k.transpose(1, 2)).view(heads, length, length)
        weights = torch.softmax(weights.mul_(scale).add_(_causal(length, q.dtype)), -1).view(groups, -1, length)
        ctx.save_for_backward(stacked, k, v, weights)
        ctx.scale = scale
        return torch.bmm(weights, v).view(1, heads, length, width)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        stacked, k, v, weights = ctx.saved_tensors
        (g,) = upstream
        shape = g.shape
        g = g.reshape(stacked.shape)
        dv = torch.bmm(weights.transpose(1, 2), g)
        slope = torch.bmm(g, v.transpose(1, 2))
        slope = torch._softmax_backward_data(slope, weights, -1, slope.dtype).mul_(ctx.scale)
        return torch.bmm(slope, k).view(shape), torch.bmm(slope.transpose(1, 2), stacked)[None], dv[None], None


def _causal(length: int, dtype: torch.dtype) -> Tensor:
    return _largest_causal(dtype)[:length, :length]


@cache
def _largest_causal(dtype: torch.dtype) -> Tensor:
    return torch.full((_SHORT_ROW, _SHORT_ROW), float("-inf"), dtype=dtype).triu(1)


def _band(length: int, window: int | None, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    return (distance >= 0) & (distance < (length if window is None else window))


def _softcapped(query: Tensor, key: Tensor, value: Tensor, band: Tensor, scale: float, softcap: float) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    logits = softcap * torch.tanh(query @ key.transpose(2, 3) * scale / softcap)
    logits = logits.masked_fill(~band, float("-inf"))
    return torch.softmax(logits, -1, dtype=torch.float32).to(value.dtype) @ value
