"""The kernels as torch writes them: the definition of each.

The compiled ones are tested against these, and machines without a compiler and GPUs use them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lamina.kernels.shapes import Heads, Mask, Places, Slopes, Turns

__all__ = ["TorchKernels"]


class TorchKernels:
    """A set of ``Kernels`` made of torch's own operations."""

    name = "torch"

    def norm(self, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None) -> Tensor:
        """See ``Kernels``."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight
        return (normed if add is None else normed + add).to(x.dtype)

    def norm_backward(
        self, g: Tensor, x: Tensor, weight: Tensor, eps: float, add: Tensor | None = None, *, again: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """See ``Kernels``."""
        wide, slope = x.float(), g.float() * weight
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        dx = inverse * (slope - wide * (slope * wide).mean(-1, keepdim=True) * inverse.square())
        dx = dx if add is None else dx + add
        return dx.to(x.dtype), (wide * inverse * weight).to(x.dtype) if again else None

    def gate(self, both: Tensor, *, gelu: bool) -> Tensor:
        """See ``Kernels``."""
        gate, up = both.chunk(2, -1)
        opened: Tensor = F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)
        return opened * up

    def gate_backward_(self, both: Tensor, g: Tensor, *, gelu: bool) -> Tensor:
        """See ``Kernels``."""
        gate, up = both.chunk(2, -1)
        opened = F.gelu(gate, approximate="tanh") if gelu else F.silu(gate)
        out, slope = opened * up, g * up
        up.copy_(g * opened)
        if gelu:
            gate.copy_(torch.ops.aten.gelu_backward(slope, gate, approximate="tanh"))
        else:
            gate.copy_(torch.ops.aten.silu_backward(slope, gate))
        return out

    def split(self, qkv: Tensor, turns: Turns, places: Places, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Kernels``."""
        at = places.tokens.clamp(min=0)
        lines = (qkv[at] * (places.tokens >= 0)[..., None]).unflatten(-1, (-1, heads.width))
        q, k, v = lines.split([heads.heads, heads.groups, heads.groups], 2)
        cosine, sine = (table[at][:, :, None] for table in (turns.cosine, turns.sine))
        k = _turn(_normed(k, heads.k_weight, heads.eps), cosine, sine).to(qkv.dtype)
        q = _turn(_normed(q, heads.q_weight, heads.eps), cosine, sine).to(qkv.dtype)[:, places.prefix :]
        queries = q.transpose(1, 2).reshape(places.rows * heads.groups, -1, heads.width)
        return queries, k.transpose(1, 2).flatten(0, 1), v.transpose(1, 2).flatten(0, 1)

    def split_backward_(
        self, dqkv: Tensor, slopes: Slopes, qkv: Tensor, turns: Turns, places: Places, heads: Heads
    ) -> None:
        """See ``Kernels``."""
        with torch.enable_grad():
            leaf = qkv.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.split(leaf, turns, places, heads), leaf, slopes)
        dqkv += slope

    def join_(self, flat: Tensor, padded: Tensor, places: Places, heads: Heads) -> None:
        """See ``Kernels``."""
        looking = places.tokens[:, places.prefix :]
        lines = padded.view(places.rows, heads.heads, places.looking, heads.width).transpose(1, 2).flatten(2)
        flat[looking[looking >= 0]] = lines[looking >= 0]

    def lay(self, flat: Tensor, places: Places, heads: Heads) -> Tensor:
        """See ``Kernels``."""
        looking = places.tokens[:, places.prefix :]
        lines = flat[looking.clamp(min=0)] * (looking >= 0)[..., None]
        padded: Tensor = lines.unflatten(-1, (heads.heads, heads.width)).transpose(1, 2)
        return padded.reshape(places.rows * heads.groups, -1, heads.width)

    def softmax_(self, scores: Tensor, mask: Mask, scale: float, cap: float | None) -> Tensor | None:
        """See ``Kernels``."""
        logits, slopes = scores.float() * scale, None
        if cap is not None:
            bent = torch.tanh(logits / cap)
            logits, slopes = cap * bent, (1 - bent.square()).to(scores.dtype)
        logits = logits.masked_fill(~_seen(scores, mask), float("-inf"))
        scores.copy_(torch.softmax(logits, -1))
        return slopes

    def softmax_backward_(self, g: Tensor, weights: Tensor, slopes: Tensor | None, mask: Mask, scale: float) -> None:
        """See ``Kernels``."""
        wide, p = g.float(), weights.float()
        slope = p * (wide - (wide * p).sum(-1, keepdim=True)) * scale
        g.copy_(slope if slopes is None else slope * slopes)

    def cross_entropy_(
        self, logits: Tensor, targets: Tensor, factor: float, cap: float | None, *, with_slope: bool
    ) -> Tensor:
        """See ``Kernels``."""
        z = logits.float() * factor
        if cap is not None:
            z = cap * torch.tanh(z / cap)
        losses = F.cross_entropy(z, targets, reduction="none")
        if with_slope:
            bend = None if cap is None else 1 - (z / cap).square()
            slope = torch.softmax(z, -1)
            slope[torch.arange(len(targets), device=targets.device), targets] -= 1.0
            logits.copy_((slope if bend is None else slope * bend).mul_(factor))
        return losses


def _normed(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    wide = x.float()
    return wide if weight is None else wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight


def _turn(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    turned, rest = x[..., : cosine.shape[-1]], x[..., cosine.shape[-1] :]
    first, second = turned.chunk(2, -1)
    return torch.cat([turned * cosine + torch.cat([-second, first], -1) * sine, rest], -1)


def _seen(scores: Tensor, mask: Mask) -> Tensor:
    queries, keys = scores.shape[-2:]
    at = torch.arange(queries, device=scores.device)[:, None] + mask.first_query
    back = at - torch.arange(keys, device=scores.device) - mask.first_key
    return (back >= 0) & (back < (mask.window or queries + keys + mask.first_query))
