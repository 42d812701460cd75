"""A decoder block read out of a transformers model, and run as one autograd step.

    n = norm(x)                q, k, v = n W_qkv^T
    x' = x + [norm](attention(q, k, v) W_o^T)
    m = norm(x')               gate, up = m W_gu^T
    x'' = x' + [norm]((act(gate) * up) W_d^T)

Norms in brackets are Gemma's. Between forward and backward a block keeps x, the projections, the attention's output, x'
and gate and up; or only x, and runs forward again (activation checkpointing: Chen et al. 2016, arXiv:1604.06174). Both
give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lamina.kernels.shapes import Kernels, Places, Turns
from lamina.lora.linear import Product, product_of, trained_parameters
from lamina.model.bucket import Attention

__all__ = ["Block", "Norm", "Pass", "run_block"]


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: ``weight`` (width,) float32, Gemma's offset of 1 included."""

    weight: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class Maps:
    """Linear maps that share an input, found anew at every pass, since layers come and go."""

    holder: nn.Module
    names: tuple[str, ...]

    def now(self) -> list[nn.Module]:
        """Return the modules, wrapped or not."""
        return [getattr(self.holder, name) for name in self.names]


@dataclass(frozen=True, slots=True)
class Block:
    """A decoder block.

    Attributes:
        before_attention, before_mlp: norms of the branches' inputs.
        after_attention, after_mlp: norms of their outputs, or None.
        qkv, out, gate_up, down: the linear maps.
        attention: the rest of attention.
        gelu: act is GELU's tanh form, not SiLU.
        kind: which rotary embedding the block uses, in families that have several.
    """

    before_attention: Norm
    after_attention: Norm | None
    before_mlp: Norm
    after_mlp: Norm | None
    qkv: Maps
    out: Maps
    gate_up: Maps
    down: Maps
    attention: Attention
    gelu: bool
    kind: str | None

    def numbers_per_token(self) -> int:
        """Return how many numbers the block keeps for backward per token."""
        width, heads = len(self.before_attention.weight), self.attention.heads
        outs = width * ((self.after_attention is not None) + (self.after_mlp is not None))
        both: int = sum(each.out_features for each in self.gate_up.now())  # type: ignore[misc]
        return 2 * width + heads.line + heads.heads * heads.width + both + outs


@dataclass(frozen=True, slots=True)
class Pass:
    """What all blocks need to know about a pass.

    Attributes:
        kernels: the element-wise part.
        turns: rotary embeddings by kind.
        buckets: the rows for attention.
        recompute: keep only a block's input between forward and backward.
    """

    kernels: Kernels
    turns: dict[str | None, Turns]
    buckets: list[Places]
    recompute: bool


@dataclass(slots=True)
class _Kept:
    """What a block's backward reads besides x."""

    products: tuple[Product, Product, Product, Product]
    thin: tuple[Tensor | None, ...]
    qkv: Tensor
    attended: Tensor
    after: Tensor
    both: Tensor
    outs: tuple[Tensor | None, Tensor | None]


def run_block(block: Block, x: Tensor, run: Pass, rows: Tensor | None = None) -> Tensor:
    """Return the block's output for ``x`` (T, width), or only its ``rows``."""
    maps = [*block.qkv.now(), *block.out.now(), *block.gate_up.now(), *block.down.now()]
    out: Tensor = _Run.apply(x, block, run, rows, *trained_parameters(maps))  # type: ignore[no-untyped-call]
    return out


class _Run(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, run: Pass, rows: Tensor | None, *parameters: nn.Parameter) -> Tensor:
        out, kept = _forward(block, x, run, rows)
        ctx.save_for_backward(x)
        ctx.rest = (block, run, rows, None if run.recompute else kept)
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        block, run, rows, kept = ctx.rest
        if kept is None:
            _, kept = _forward(block, x, run, rows)
        ctx.rest = None
        dx, gradients = _backward(block, upstream[0], x, run, rows, kept, need_dx=ctx.needs_input_grad[0])
        return dx, None, None, None, *gradients


def _forward(block: Block, x: Tensor, run: Pass, rows: Tensor | None) -> tuple[Tensor, _Kept]:
    kernels = run.kernels
    products = tuple(product_of(maps.now(), x.dtype) for maps in (block.qkv, block.out, block.gate_up, block.down))
    qkv, h_qkv = products[0].forward(kernels.norm(x, block.before_attention.weight, block.before_attention.eps))
    attended = block.attention.forward(kernels, qkv, run.turns[block.kind], run.buckets)
    if rows is not None:
        attended, x = attended[rows], x[rows]
    after, h_out, out = _branch(kernels, products[1], attended, x, block.after_attention)
    both, h_both = products[2].forward(kernels.norm(after, block.before_mlp.weight, block.before_mlp.eps))
    gated = kernels.gate(both, gelu=block.gelu)
    final, h_down, down = _branch(kernels, products[3], gated, after, block.after_mlp)
    thin = (h_qkv, h_out, h_both, h_down)
    return final, _Kept(products, thin, qkv, attended, after, both, (out, down))  # type: ignore[arg-type]


def _branch(
    kernels: Kernels, product: Product, inner: Tensor, x: Tensor, norm: Norm | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return x plus the branch, the product's h, and the product itself if a norm stands behind it."""
    if norm is None:
        y, h = product.forward(inner, add=x)
        return y, h, None
    y, h = product.forward(inner)
    return kernels.norm(y, norm.weight, norm.eps, add=x), h, y


def _backward(
    block: Block, g: Tensor, x: Tensor, run: Pass, rows: Tensor | None, kept: _Kept, *, need_dx: bool
) -> tuple[Tensor | None, Sequence[Tensor]]:
    kernels = run.kernels
    qkv, out, gate_up, down = kept.products
    h_qkv, h_out, h_both, h_down = kept.thin
    g = g.contiguous()
    slope = _through(kernels, g, kept.outs[1], block.after_mlp)
    dgated, dh = down.pull(slope)
    gated = kernels.gate_backward_(kept.both, _there(dgated), gelu=block.gelu)
    of_down = down.gradients(slope, gated, h_down, dh)
    dm, dh = gate_up.pull(kept.both)
    norm = block.before_mlp
    g, m = kernels.norm_backward(_there(dm), kept.after, norm.weight, norm.eps, add=g, again=True)
    of_gate_up = gate_up.gradients(kept.both, _there(m), h_both, dh)
    slope = _through(kernels, g, kept.outs[0], block.after_attention)
    dattended, dh = out.pull(slope)
    of_out = out.gradients(slope, kept.attended, h_out, dh)
    if rows is not None:
        g, dattended = (_spread(each, rows, len(x)) for each in (g, _there(dattended)))
    dqkv = block.attention.backward(kernels, _there(dattended), kept.qkv, run.turns[block.kind], run.buckets)
    dn, dh = qkv.pull(dqkv)
    norm = block.before_attention
    g, n = kernels.norm_backward(_there(dn), x, norm.weight, norm.eps, add=g, again=True)
    return g if need_dx else None, [*qkv.gradients(dqkv, _there(n), h_qkv, dh), *of_out, *of_gate_up, *of_down]


def _there(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _spread(part: Tensor, rows: Tensor, length: int) -> Tensor:
    return part.new_zeros(length, part.shape[1]).index_copy_(0, rows, part)


def _through(kernels: Kernels, g: Tensor, out: Tensor | None, norm: Norm | None) -> Tensor:
    """Return the gradient of a branch's product, which a norm may stand behind."""
    if norm is None or out is None:
        return g
    return kernels.norm_backward(g, out, norm.weight, norm.eps)[0]
