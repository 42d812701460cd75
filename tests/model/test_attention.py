"""The products for short rows give causal attention and its gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from lamina.model.attention import _ShortRow, packed_attention


def inputs(heads: int, groups: int, length: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, count, length, 4) for count in (heads, groups, groups)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize(("heads", "groups"), [(3, 3), (6, 2), (4, 1)])
def test_short_rows_are_exact(heads: int, groups: int) -> None:
    q, k, v = inputs(heads, groups, 5, torch.float64)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(_ShortRow.apply(q, k, v, 0.3), expected)
    assert torch.autograd.gradcheck(lambda *tensors: _ShortRow.apply(*tensors, 0.3), (q, k, v))


def test_bfloat16_rows_are_close_to_float32_ones() -> None:
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        tensors = inputs(6, 2, 40, dtype)
        out, _ = packed_attention(torch.nn.Identity(), *tensors, None, row_lengths=(11, 24, 5))
        out.float().square().sum().backward()
        found[dtype] = [out, *(tensor.grad for tensor in tensors)]
    for exact, rounded in zip(*found.values(), strict=True):
        assert (exact - rounded.float()).norm() <= 0.02 * exact.norm()
