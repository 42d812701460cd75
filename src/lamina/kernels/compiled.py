"""torch's kernels fused by torch.compile, each on its own, for GPUs: the same definitions, one launch apiece.

Inductor keeps what it has compiled on disk, so a second start only traces again. The CPU has ``native.py`` instead,
which starts faster.
"""

from __future__ import annotations

from typing import Any

import torch

from lamina.kernels.reference import TorchKernels

__all__ = ["compile_kernels"]

# The others move data or call autograd, where there is nothing to fuse.
_WORTH_IT = ("norm", "norm_backward", "gate", "gate_backward_", "softmax_", "softmax_backward_", "cross_entropy_")


def compile_kernels() -> TorchKernels:
    """Return a set of kernels whose arithmetic is compiled, for any number of rows, on first use."""
    kernels: Any = TorchKernels()
    kernels.name = "torch.compile"
    for name in _WORTH_IT:
        setattr(kernels, name, torch.compile(getattr(kernels, name), dynamic=True, fullgraph=True))
    found: TorchKernels = kernels
    return found
