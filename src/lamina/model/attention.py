"""Attention over packed rows in which no row sees another, registered under transformers' ``AttentionInterface``.

A packed batch is one long sequence of whole rows. Every linear map works on it as it is, with no padding; only here are
queries, keys and values laid out as one padded row each, so that a causal kernel keeps the rows apart. Padding goes to
the right, behind everything a real token may look at, so plain causal attention needs no mask.

Legend: T tokens in the pack, n rows, L longest row, H heads, d head width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

__all__ = ["PACKED_ATTENTION", "RowLayout", "packed_attention"]

PACKED_ATTENTION = "lamina_packed"


@dataclass(frozen=True, slots=True)
class RowLayout:
    """Where the rows of a pack lie: their lengths, and the index that turns padded rows into the pack.

    ``gather[i, j]`` is the pack position of token j of row i (any valid position where j is padding); ``scatter[t]`` is
    the flat position, in (n x L), of pack token t.
    """

    lengths: tuple[int, ...]
    gather: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> RowLayout:
        """Return the layout of rows of these lengths, in order."""
        longest = max(lengths)
        sizes = torch.tensor(lengths)
        starts = torch.cumsum(sizes, 0) - sizes
        columns = torch.arange(longest)
        gather = starts[:, None] + torch.minimum(columns[None, :], sizes[:, None] - 1)
        flat = torch.arange(len(lengths))[:, None] * longest + columns[None, :]
        scatter = flat[columns[None, :] < sizes[:, None]]
        return cls(tuple(lengths), gather.to(device), scatter.to(device))


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_layout: RowLayout | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """Return causal attention within each row of a pack.

    Args:
        module: the attention block (unused; part of transformers' interface).
        query: (1, H, T, d).
        key: (1, H_kv, T, d); heads are shared in groups when H_kv < H.
        value: (1, H_kv, T, d).
        attention_mask: ignored; the layout says all.
        row_layout: the rows of the pack.
        scaling: factor on the logits; None means 1 / sqrt(d).
        sliding_window: how many tokens back a token may look, itself included; None means all.
        softcap: logits become ``softcap * tanh(logits / softcap)`` (Gemma 2).

    Returns:
        (1, T, H, d), and no weights.

    Raises:
        ValueError: if the model did not hand the layout through.
    """
    if row_layout is None:
        raise ValueError("this model does not pass row_layout to its attention")
    q, k, v = (_unpack(tensor, row_layout) for tensor in (query, key, value))
    longest = q.shape[2]
    band = _band(longest, sliding_window, query.device)
    if softcap is None:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=band, is_causal=band is None, scale=scaling, enable_gqa=key.shape[1] != query.shape[1]
        )
    else:
        out = _softcapped(q, k, v, _band(longest, longest, query.device) if band is None else band, scaling, softcap)
    n, heads, length, width = out.shape
    packed = out.transpose(1, 2).reshape(n * length, heads, width)[row_layout.scatter]
    return packed.unsqueeze(0), None


AttentionInterface.register(PACKED_ATTENTION, packed_attention)


def _unpack(tensor: Tensor, layout: RowLayout) -> Tensor:
    # (1, H, T, d) -> (n, H, L, d); padding repeats a row's last token, which no real token can see.
    return tensor[0].transpose(0, 1)[layout.gather].transpose(1, 2)


def _band(longest: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or window > longest:
        return None
    distance = torch.arange(longest, device=device)[:, None] - torch.arange(longest, device=device)[None, :]
    return (distance >= 0) & (distance < window)


def _softcapped(
    query: Tensor, key: Tensor, value: Tensor, band: Tensor | None, scaling: float | None, softcap: float
) -> Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    logits = softcap * torch.tanh(logits / softcap)
    if band is not None:
        logits = logits.masked_fill(~band, float("-inf"))
    return torch.softmax(logits, -1, dtype=torch.float32).to(value.dtype) @ value
