"""From hidden states to next-token losses and choices, a block of rows at a time.

The logits of a 135M model are a hundred times wider than its hidden states; held for a whole batch they are what fills
memory in most trainers. Here no more than ``_BLOCK`` rows of logits exist at once, and the loss's gradient with respect
to the hidden states is computed in the forward pass, while they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from lamina.kernels.shapes import Kernels

__all__ = ["Head", "agree", "head_agrees", "make_head"]

_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Head:
    """The frozen map from a hidden state to logits: ``cap(factor * (states W^T + b))``.

    Attributes:
        weight: (V, width).
        bias: (V,) or None.
        factor: multiplies the logits (Cohere's ``logit_scale``, 1 / Granite's ``logits_scaling``).
        softcap: Gemma's cap on logits, or None.
        kernels: what computes losses and their gradients.
    """

    weight: Tensor
    bias: Tensor | None
    factor: float
    softcap: float | None
    kernels: Kernels

    def logits(self, states: Tensor) -> Tensor:
        """Return float32 logits, (N, V), of ``states`` (N, width)."""
        logits = F.linear(states, self.weight, self.bias).float()
        if self.factor != 1.0:
            logits = logits * self.factor
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def loss_sum(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return the summed cross-entropy in nats, differentiable in ``states``.

        Source: the gradient in the forward pass is Liger Kernel's fused linear cross-entropy (arXiv:2410.10989,
        section 3.2); with a frozen head there is only the gradient of the states to keep.
        """
        loss: Tensor = _LossSum.apply(states, targets, self)  # type: ignore[no-untyped-call]
        return loss

    def blended_sum(self, states: Tensor, targets: Tensor, parents: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return the summed loss against tokens and a parent's predictions, differentiable in ``states``.

        ``(1 - s) * cross-entropy + s * KL(parent || own)`` for each token: but for a constant, the cross-entropy of a
        target that is (1 - s) the token and s the parent's distribution, so that its slope is as cheap.

        Args:
            states: (N, width).
            targets: (N,) the tokens.
            parents: (N, width), the parent's hidden states at the same places; nothing flows back into them.
            shares: (N,) float32, s in 0..1.

        Returns:
            The loss and, without gradient, the summed KL; both in nats.

        Source: distillation with hard and soft targets at temperature 1, Hinton et al. 2015, arXiv:1503.02531,
        section 2.
        """
        sums: tuple[Tensor, Tensor] = _BlendedSum.apply(  # type: ignore[no-untyped-call]
            states, targets, parents, shares, self
        )
        return sums

    @torch.no_grad()
    def log_probs(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return each target's log-probability in nats, (N,)."""
        blocks = zip(states.split(_BLOCK), targets.split(_BLOCK), strict=True)
        return torch.cat([-_block_loss(block, wanted, self, with_slope=False)[0] for block, wanted in blocks])

    @torch.no_grad()
    def are_likeliest(self, states: Tensor, targets: Tensor) -> Tensor:
        """Return whether each target is the choice of greedy decoding, (N,)."""
        blocks = zip(states.split(_BLOCK), targets.split(_BLOCK), strict=True)
        return torch.cat([self.logits(block).argmax(-1) == wanted for block, wanted in blocks])


class _LossSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, targets: Tensor, head: Head) -> Tensor:
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        gradient = torch.empty_like(states) if states.requires_grad else None
        for start in range(0, len(targets), _BLOCK):
            block = slice(start, start + _BLOCK)
            losses, slope = _block_loss(states[block], targets[block], head, with_slope=gradient is not None)
            total += losses.sum()
            if gradient is not None:
                torch.mm(slope, head.weight, out=gradient[block])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None


class _BlendedSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: Tensor, targets: Tensor, parents: Tensor, shares: Tensor, head: Head
    ) -> tuple[Tensor, Tensor]:
        total = torch.zeros((), dtype=torch.float32, device=states.device)
        apart = torch.zeros_like(total)
        gradient = torch.empty_like(states)
        for start in range(0, len(targets), _BLOCK):
            block = slice(start, start + _BLOCK)
            losses, moved, slope = _block_blend(states[block], targets[block], parents[block], shares[block], head)
            total += losses.sum()
            apart += moved.sum()
            torch.mm(slope, head.weight, out=gradient[block])
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(apart)
        return total, apart

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0], None, None, None, None


def _block_blend(
    states: Tensor, targets: Tensor, parents: Tensor, shares: Tensor, head: Head
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a block's losses and divergences, (n,), and the losses' slope in the logits, (n, V)."""
    logits = head.logits(states)
    bend = None if head.softcap is None else 1 - (logits / head.softcap).square()
    own = torch.log_softmax(logits, -1)
    wanted = torch.log_softmax(head.logits(parents), -1)
    chances = wanted.exp()
    moved = wanted.sub_(own).mul_(chances).sum(-1)
    at = torch.arange(len(targets), device=targets.device)
    losses = shares * moved - (1 - shares) * own[at, targets]
    slope = own.exp_().sub_(chances.mul_(shares[:, None]))
    slope[at, targets] -= 1 - shares
    if bend is not None:
        slope.mul_(bend)
    return losses, moved, slope.mul_(head.factor).to(head.weight.dtype)


def _block_loss(states: Tensor, targets: Tensor, head: Head, *, with_slope: bool) -> tuple[Tensor, Tensor]:
    """Return the losses of a block, (n,), and its logits, which with ``with_slope`` have become their gradient."""
    logits = F.linear(states, head.weight, head.bias)
    losses = head.kernels.cross_entropy_(logits, targets, head.factor, head.softcap, with_slope=with_slope)
    return losses, logits


def make_head(model: PreTrainedModel, kernels: Kernels) -> Head:
    """Return the head of a causal language model, read from its configuration."""
    output = model.get_output_embeddings()
    config = model.config
    factor = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    bias = None if output.bias is None else output.bias.detach()
    return Head(output.weight.detach(), bias, factor, softcap, kernels)


@torch.no_grad()
def head_agrees(model: PreTrainedModel, head: Head) -> bool:
    """Return whether ``head`` over the model's hidden states gives the model's own logits, tried on random tokens."""
    vocabulary = head.weight.shape[0]
    device = head.weight.device
    ids = torch.randint(vocabulary, (1, 6), generator=torch.Generator().manual_seed(0)).to(device)
    own = model(input_ids=ids, use_cache=False).logits[0].float()
    ours = head.logits(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0])
    return agree(model, ours, own)


def agree(model: PreTrainedModel, found: Tensor, expected: Tensor) -> bool:
    """Return whether ``found`` is ``expected`` but for the rounding of the model's dtype."""
    tolerance = 1e-4 if model.dtype == torch.float32 else 3e-2
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1.0))
