"""Everything that training changes, in three flat tensors: parameters, and AdamW's two moments.

The factors of all maps are views into one vector, and so are their gradients. One fused update serves them all, and a
checkpoint is these tensors and a step number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lamina.errors import StackError
from lamina.lora.adapter import Adapter, Factors, rescale
from lamina.stack.store import write_atomically

__all__ = ["TrainState"]

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8


class TrainState:
    """A layer in training."""

    def __init__(self, start: Adapter, device: torch.device) -> None:
        """Lay the factors of ``start`` into one vector on ``device``."""
        tensors = [tensor for factors in start.values() for tensor in (factors.A, factors.B)]
        self.step = 0
        self.values = torch.cat([tensor.reshape(-1) for tensor in tensors]).to(device, torch.float32)
        self.gradient = torch.zeros_like(self.values)
        self.mean = torch.zeros_like(self.values)
        self.variance = torch.zeros_like(self.values)
        self.pairs = self._views(start)

    def adapter(self, scale: float) -> dict[str, Factors]:
        """Return a copy of the factors as they are now, ``scale`` folded in."""
        now = {path: Factors(A.detach().cpu().clone(), B.detach().cpu().clone()) for path, (A, B) in self.pairs.items()}
        return rescale(now, scale)

    def update(self, *, learning_rate: float, weight_decay: float, clip: float) -> float:
        """Take one AdamW step along the gathered gradient, clear it, and return its norm before clipping.

        Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2.
        """
        self.step += 1
        norm = float(self.gradient.norm())
        if norm > clip:
            self.gradient.mul_(clip / norm)
        self.mean.lerp_(self.gradient, 1 - _BETAS[0])
        self.variance.mul_(_BETAS[1]).addcmul_(self.gradient, self.gradient, value=1 - _BETAS[1])
        spread = (self.variance / (1 - _BETAS[1] ** self.step)).sqrt_().add_(_EPSILON)
        self.values.mul_(1 - learning_rate * weight_decay)
        self.values.addcdiv_(self.mean, spread, value=-learning_rate / (1 - _BETAS[0] ** self.step))
        self.gradient.zero_()
        return norm

    def save(self, path: Path, notes: Mapping[str, object]) -> None:
        """Write a checkpoint that appears whole or not at all; ``notes`` (JSON) travel with it.

        Raises:
            OSError: if the disk is full or read-only; the checkpoint before stays.
        """
        tensors = {"values": self.values, "mean": self.mean, "variance": self.variance}
        metadata = {"step": str(self.step), "notes": json.dumps(notes)}
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
        except (OSError, SafetensorError, RuntimeError) as error:
            raise StackError(f"{path}: damaged checkpoint: {error}", hint=f"start over: rm {path}") from error
        self.step = int(metadata["step"])
        notes: dict[str, object] = json.loads(metadata["notes"])
        return notes

    def _views(self, start: Adapter) -> dict[str, tuple[nn.Parameter, nn.Parameter]]:
        offset = 0
        pairs: dict[str, tuple[nn.Parameter, nn.Parameter]] = {}

        def view(like: Tensor) -> nn.Parameter:
            nonlocal offset
            span = slice(offset, offset + like.numel())
            offset += like.numel()
            parameter = nn.Parameter(self.values[span].view(like.shape))
            parameter.grad = self.gradient[span].view(like.shape)
            return parameter

        for path, factors in start.items():
            pairs[path] = (view(factors.A), view(factors.B))
        return pairs
