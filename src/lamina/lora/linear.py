"""The LoRA linear map: a frozen base, the sum of all frozen layers, and the layer in training, in one autograd step.

    y = x W^T + b  +  (x C^T) D^T  +  s (x A^T) B^T

C and D are the frozen layers laid side by side (``adapter.combine``). Backward computes no gradient for W, C or D, and
keeps only x and x A^T: everything else is cheaper to compute again than to hold.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lamina.lora.adapter import Factors

__all__ = ["LoRALinear"]


class LoRALinear(nn.Module):
    """A linear map with frozen layers summed onto it and at most one layer in training.

    Attributes:
        original: the module that this one stands in for, kept so that detaching restores it.
        weight: (d_out, d_in) frozen, a view of the original's.
        frozen: the frozen layers as one pair of factors, scale folded in, or None.
        trained: (A, B) parameters of the layer in training, or None.
        scale: what the trained pair is multiplied by.
    """

    def __init__(self, original: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
        """Wrap ``original``, whose frozen map is ``x weight^T + bias``."""
        super().__init__()
        # Held in a tuple, so that the original's parameters keep their only home in the module tree.
        self._original = (original,)
        self.weight = weight
        self.bias = bias
        self.frozen: Factors | None = None
        self.trained: tuple[nn.Parameter, nn.Parameter] | None = None
        self.scale = 1.0

    @property
    def original(self) -> nn.Module:
        """The module this one stands in for."""
        return self._original[0]

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., d_out) for ``x`` (..., d_in)."""
        frozen = (None, None) if self.frozen is None else (self.frozen.A, self.frozen.B)
        trained = (None, None) if self.trained is None else self.trained
        y: Tensor = _SummedLinear.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, x.shape[-1]), self.weight, self.bias, *frozen, *trained, self.scale
        )
        return y.view(*x.shape[:-1], y.shape[-1])


class _SummedLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        W: Tensor,
        bias: Tensor | None,
        C: Tensor | None,
        D: Tensor | None,
        A: Tensor | None,
        B: Tensor | None,
        scale: float,
    ) -> Tensor:
        y = x @ W.t() if bias is None else torch.addmm(bias, x, W.t())
        if C is not None and D is not None:
            y.addmm_(x @ C.t(), D.t())
        h = None
        if A is not None and B is not None:
            A, B = A.to(x.dtype), B.to(x.dtype)
            h = x @ A.t()
            y.addmm_(h, B.t(), alpha=scale)
        ctx.save_for_backward(x if A is not None else None, W, C, D, A, B, h)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, W, C, D, A, B, h = ctx.saved_tensors
        (g,) = upstream
        dh = None if A is None else (g @ B).mul_(ctx.scale)
        dx = None
        if ctx.needs_input_grad[0]:
            dx = g @ W
            if C is not None:
                dx.addmm_(g @ D, C)
            if dh is not None:
                dx.addmm_(dh, A)
        if dh is None:
            return dx, None, None, None, None, None, None, None
        return dx, None, None, None, None, (dh.t() @ x).float(), (g.t() @ h).mul_(ctx.scale).float(), None
