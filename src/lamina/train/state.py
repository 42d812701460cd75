"""Everything that training changes, in flat tensors: parameters, AdamW's two moments, and the best parameters so far.

The factors of all maps are views into one vector, first every A, then every B, and so are their gradients. Two fused
updates serve them all, and a checkpoint is these tensors, a step number and the best held-out loss.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lamina.errors import StackError
from lamina.lora.adapter import Adapter, Factors, rescale
from lamina.stack.store import write_atomically
from lamina.train.best import Best
from lamina.train.memory import MicroBatch

__all__ = ["TrainState"]

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class TrainState:
    """A layer in training.

    Attributes:
        step: optimiser steps taken.
        best: the values that did best on held-out rows so far.
        micro: how much goes through the model at once; chosen by the loop on its first step, then kept.
        values, gradient, mean, variance: all factors, every A in front of every B, and what AdamW knows of them.
        pairs: the factors of each map, views into ``values``.
    """

    def __init__(self, start: Adapter, device: torch.device) -> None:
        """Lay the factors of ``start`` into one vector on ``device``."""
        tensors = [factors.A for factors in start.values()] + [factors.B for factors in start.values()]
        self.step = 0
        self.best: Best | None = None
        self.micro: MicroBatch | None = None
        self.values = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(device, torch.float32)
        self.gradient = torch.zeros_like(self.values)
        self.mean = torch.zeros_like(self.values)
        self.variance = torch.zeros_like(self.values)
        self.pairs = self._views(start)
        a_count = sum(factors.A.numel() for factors in start.values())
        self._spans = (slice(None, a_count), slice(a_count, None))

    def adapter(self, scale: float) -> dict[str, Factors]:
        """Return a copy of the factors as they are now, ``scale`` folded in."""
        now = {path: Factors(A.detach().cpu().clone(), B.detach().cpu().clone()) for path, (A, B) in self.pairs.items()}
        return rescale(now, scale)

    def update(self, *, learning_rate: float, weight_decay: float, clip: float, b_rate: float = 1.0) -> float:
        """Take one AdamW step along the gathered gradient, clear it, and return its norm before clipping.

        ``b_rate`` multiplies the learning rate of every B, and with it the decay, which AdamW scales by that rate.

        Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2; the two rates: Hayou et al. 2024 (LoRA+),
        arXiv:2402.12354.
        """
        self.step += 1
        norm = float(self.gradient.norm())
        if norm > clip:
            self.gradient.mul_(clip / norm)
        self.mean.lerp_(self.gradient, 1 - _BETAS[0])
        self.variance.mul_(_BETAS[1]).addcmul_(self.gradient, self.gradient, value=1 - _BETAS[1])
        spread = (self.variance / (1 - _BETAS[1] ** self.step)).sqrt_().add_(_EPSILON)
        for span, rate in zip(self._spans, (learning_rate, learning_rate * b_rate), strict=True):
            self.values[span].mul_(1 - rate * weight_decay)
            self.values[span].addcdiv_(self.mean[span], spread[span], value=-rate / (1 - _BETAS[0] ** self.step))
        self.gradient.zero_()
        return norm

    def compare(self, losses: Sequence[float]) -> None:
        """Keep a copy of the values as they are now if no measurement before was so low, or note a miss.

        Args:
            losses: of each watched row, in nats over its trained tokens.

        Raises:
            FloatingPointError: if a loss is not finite.
        """
        total = sum(losses)
        if not math.isfinite(total):
            raise FloatingPointError(f"the held-out loss became {total}")
        if self.best is None or total < self.best.loss:
            values = torch.empty_like(self.values) if self.best is None else self.best.values
            self.best = Best(values.copy_(self.values), self.step, tuple(losses))
        else:
            self.best.misses = (*self.best.misses, self.step) if self.best.beats(losses) else ()

    def restore_best(self) -> bool:
        """Go back to the values that did best on held-out rows if the last ones did worse; return whether they did."""
        if self.best is None or not self.best.misses:
            return False
        self.values.copy_(self.best.values)
        return True

    def save(self, path: Path, notes: Mapping[str, object]) -> None:
        """Write a checkpoint that appears whole or not at all; ``notes`` (JSON) travel with it.

        Raises:
            OSError: if the disk is full or read-only; the checkpoint before stays.
        """
        tensors = {"values": self.values, "mean": self.mean, "variance": self.variance}
        metadata = {"step": str(self.step), "notes": json.dumps(notes)}
        if self.micro is not None:
            metadata["micro"] = json.dumps([self.micro.tokens, self.micro.recompute])
        if self.best is not None:
            tensors["best"] = self.best.values
            metadata["best"] = json.dumps([self.best.step, self.best.losses, self.best.misses])
        write_atomically(path, save({name: tensor.cpu() for name, tensor in tensors.items()}, metadata=metadata))

    def load(self, path: Path) -> dict[str, object]:
        """Go on from a checkpoint, bit for bit, and return its notes.

        Raises:
            StackError: if the file is damaged or of another run.
        """
        try:
            with safe_open(path, framework="pt") as stored:
                metadata = stored.metadata()
                for name, tensor in (("values", self.values), ("mean", self.mean), ("variance", self.variance)):
                    tensor.copy_(stored.get_tensor(name))
                if "best" in metadata:
                    step, losses, *more = json.loads(metadata["best"])
                    if isinstance(losses, list):  # once it was the mean loss alone: no row can be compared with that
                        values = stored.get_tensor("best").to(self.values)
                        self.best = Best(values, step, tuple(losses), tuple(*more))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise StackError(f"{path}: damaged checkpoint: {error}", hint=f"start over: rm {path}") from error
        if "micro" in metadata:
            tokens, recompute = json.loads(metadata["micro"])
            self.micro = MicroBatch(tokens, recompute=recompute)
        self.step = int(metadata["step"])
        notes: dict[str, object] = json.loads(metadata["notes"])
        return notes

    def _views(self, start: Adapter) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        offset = 0

        def view(like: Tensor) -> nn.Parameter:
            nonlocal offset
            span = slice(offset, offset + like.numel())
            offset += like.numel()
            parameter = nn.Parameter(self.values[span].view(like.shape))
            parameter.grad = self.gradient[span].view(like.shape)
            return parameter

        first = [view(factors.A) for factors in start.values()]
        second = [view(factors.B) for factors in start.values()]
        return dict(zip(start, zip(first, second, strict=True), strict=True))
