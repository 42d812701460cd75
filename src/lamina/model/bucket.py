"""Causal attention within the rows of a bucket, forward and backward, by whole matrix products.

torch's flash kernel for the CPU works in tiles too small for bfloat16 units. Here a block of queries meets all the keys
it may see in one batched product; heads that share keys are stacked as further queries, so keys are never repeated and
their gradients come out summed. Weights live for one block only and are computed again in backward, so memory grows
with a row's length, not its square.

Legend: see ``kernels.shapes``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.kernels.shapes import Heads, Kernels, Mask, Places, Turns
from lamina.model.flash import flash_attention, flash_slopes

__all__ = ["Attention"]

_QUERIES = 256


@dataclass(frozen=True, slots=True)
class Attention:
    """A block's attention.

    Attributes:
        heads: how the projections are cut.
        scale: factor on the logits.
        window: how many places back a token may look, itself included; 0 means all.
        cap: logits become ``cap * tanh(logits / cap)`` (Gemma 2), or None.
        flash: leave it to torch's own kernels, which know no cap.
    """

    heads: Heads
    scale: float
    window: int
    cap: float | None
    flash: bool

    def forward(self, kernels: Kernels, qkv: Tensor, turns: Turns, buckets: list[Places]) -> Tensor:
        """Return (T, H d) for the projections ``qkv``, (T, (H + 2 G) d)."""
        out = qkv.new_empty(len(qkv), self.heads.heads * self.heads.width)
        for places in buckets:
            q, k, v = kernels.split(qkv, turns, places, self.heads)
            kernels.join_(out, self._attend(kernels, q, k, v, places), places, self.heads)
        return out

    def backward(self, kernels: Kernels, g: Tensor, qkv: Tensor, turns: Turns, buckets: list[Places]) -> Tensor:
        """Return the gradient of ``qkv`` for that of the output."""
        dqkv = torch.zeros_like(qkv)
        for places in buckets:
            q, k, v = kernels.split(qkv, turns, places, self.heads)
            upstream = kernels.lay(g, places, self.heads)
            if self.flash:
                slopes = flash_slopes(upstream, q, k, v, places, self.heads, scale=self.scale, window=self.window)
            else:
                slopes = self._slopes(kernels, upstream, q, k, v, places)
            kernels.split_backward_(dqkv, slopes, qkv, turns, places, self.heads)
        return dqkv

    def _attend(self, kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, places: Places) -> Tensor:
        if self.flash:
            return flash_attention(q, k, v, places, self.heads, scale=self.scale, window=self.window)
        out = torch.empty_like(q)
        for block in self._blocks(places):
            weights, _ = self._weights(kernels, block.queries(q), k, block)
            block.put(out, torch.bmm(weights.flatten(1, 2), v[:, block.keys]))
        return out

    def _slopes(
        self, kernels: Kernels, do: Tensor, q: Tensor, k: Tensor, v: Tensor, places: Places
    ) -> tuple[Tensor, Tensor, Tensor]:
        blocks = list(self._blocks(places))
        # Sums over many blocks of queries are kept in float32; a single block that sees all keys has nothing to sum.
        single = len(blocks) == 1 and blocks[0].keys == slice(0, places.length)
        sums = None if single else [torch.zeros_like(each, dtype=torch.float32) for each in (k, v)]
        dq = torch.empty_like(q)
        for block in blocks:
            queries, upstream = block.queries(q), block.queries(do)
            weights, bend = self._weights(kernels, queries, k, block)
            dv = torch.bmm(weights.flatten(1, 2).transpose(1, 2), upstream)
            slope = torch.bmm(upstream, v[:, block.keys].transpose(1, 2)).view_as(weights)
            kernels.softmax_backward_(slope, weights, bend, block.mask, self.scale)
            flat = slope.flatten(1, 2)
            block.put(dq, torch.bmm(flat, k[:, block.keys]))
            dk = torch.bmm(flat.transpose(1, 2), queries)
            if sums is None:
                return dq, dk, dv
            sums[0][:, block.keys] += dk
            sums[1][:, block.keys] += dv
        assert sums is not None
        return dq, sums[0].to(k.dtype), sums[1].to(v.dtype)

    def _weights(self, kernels: Kernels, queries: Tensor, k: Tensor, block: _Block) -> tuple[Tensor, Tensor | None]:
        products = torch.bmm(queries, k[:, block.keys].transpose(1, 2))
        scores: Tensor = products.view(len(products), self.heads.shared, -1, products.shape[2])
        return scores, kernels.softmax_(scores, block.mask, self.scale, self.cap)

    def _blocks(self, places: Places) -> Iterator[_Block]:
        for start in range(0, places.looking, _QUERIES):
            end = min(start + _QUERIES, places.looking)
            first = max(0, places.prefix + start - self.window + 1) if self.window else 0
            mask = Mask(places.prefix + start, first, self.window)
            whole = end - start == places.looking
            yield _Block(None if whole else slice(start, end), slice(first, places.prefix + end), mask, self.heads)


@dataclass(frozen=True, slots=True)
class _Block:
    """Some queries of every head (None: all) and the keys that they may see."""

    rows: slice | None
    keys: slice
    mask: Mask
    heads: Heads

    def queries(self, padded: Tensor) -> Tensor:
        if self.rows is None:
            return padded
        chosen: Tensor = padded.unflatten(1, (self.heads.shared, -1))[:, :, self.rows].flatten(1, 2)
        return chosen

    def put(self, padded: Tensor, values: Tensor) -> None:
        if self.rows is None:
            padded.copy_(values)
        else:
            padded.unflatten(1, (self.heads.shared, -1))[:, :, self.rows] = values.unflatten(1, (self.heads.shared, -1))
