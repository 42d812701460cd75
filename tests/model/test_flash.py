"""torch's attention kernels and our products give the same, whatever rows share and however far they look."""

from __future__ import annotations

import pytest
import torch

from lamina.kernels.reference import TorchKernels
from lamina.kernels.shapes import Heads, Places, Turns
from lamina.model.bucket import Attention


@pytest.mark.parametrize("prefix", [0, 4])
@pytest.mark.parametrize("window", [0, 3, 50])
@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2)])
def test_flash_equals_products(prefix: int, window: int, heads: int, groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = Heads(heads, groups, 8)
    own = iter(range(prefix, 100))
    rows = [[*range(prefix), *(next(own) for _ in range(length))] for length in (9, 7)]
    buckets = [Places(torch.tensor([row + [-1] * (9 + prefix - len(row)) for row in rows]), prefix)]
    if prefix:
        buckets.insert(0, Places(torch.tensor([list(range(prefix))])))
    tokens = prefix + 16
    angles = torch.rand(tokens, 8, generator=generator)
    turns = Turns(angles.cos(), angles.sin())
    qkv = torch.randn(tokens, shape.line, generator=generator)
    g = torch.randn(tokens, heads * 8, generator=generator)
    found = []
    for flash in (False, True):
        attention = Attention(shape, 0.3, window, None, flash=flash)
        out = attention.forward(TorchKernels(), qkv, turns, buckets)
        found.append((out, attention.backward(TorchKernels(), g, qkv, turns, buckets)))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
