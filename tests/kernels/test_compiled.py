"""What torch.compile makes of the kernels gives what they give; tried on the CPU, meant for GPUs."""

from __future__ import annotations

import shutil

import pytest
import torch

from lamina.kernels.compiled import compile_kernels
from lamina.kernels.reference import TorchKernels
from lamina.kernels.shapes import Mask


@pytest.mark.real
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler on the CPU")
@pytest.mark.filterwarnings("default")
def test_compiled_kernels_equal_plain_ones_for_any_number_of_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    compiled = compile_kernels()
    for rows in (5, 12):
        x, g = (torch.randn(rows, 16, generator=generator) for _ in range(2))
        weight = torch.rand(16, generator=generator)
        scores = torch.randn(2, 3, rows, rows, generator=generator)
        found = []
        for kernels in (compiled, TorchKernels()):
            both, weights, slope, logits = x.clone(), scores.clone(), scores.clone(), x.clone()
            opened = kernels.gate_backward_(both, g[:, :8].contiguous(), gelu=False)
            kernels.softmax_(weights, Mask(), 0.3, None)
            kernels.softmax_backward_(slope, weights, None, Mask(), 0.3)
            losses = kernels.cross_entropy_(logits, torch.arange(rows), 1.0, None, with_slope=True)
            normed = kernels.norm(x, weight, 1e-5, g)
            slopes = kernels.norm_backward(g, x, weight, 1e-5, again=True)
            found.append((both, opened, weights, slope, losses, logits, normed, slopes))
        torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
