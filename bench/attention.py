"""Attention over a pack, forward and backward, three ways: one padded batch, a kernel call per row, and lamina's own.

python bench/attention.py
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch
from report import publish
from torch import Tensor
from torch.nn import functional as F

from lamina.model.attention import packed_attention

HEADS, GROUPS, WIDTH = 9, 3, 64
_DRAW = random.Random(0)
PACKS = {
    "8 rows of 110-380": tuple(_DRAW.randint(110, 380) for _ in range(8)),
    "8 rows of 40-75": tuple(_DRAW.randint(40, 75) for _ in range(8)),
    "120 rows of 25-40": tuple(_DRAW.randint(25, 40) for _ in range(120)),
    "2 rows of 1,000 and 1,024": (1000, 1024),
}


def main() -> None:
    figures = {}
    for name, lengths in PACKS.items():
        for dtype in (torch.bfloat16, torch.float32):
            tensors = [torch.randn(1, n, sum(lengths), WIDTH).to(dtype) for n in (HEADS, GROUPS, GROUPS)]
            q, k, v = (tensor.requires_grad_() for tensor in tensors)
            ways: dict[str, Callable[..., Tensor]] = {"padded": padded, "per row": per_row, "lamina": ours}
            taken = {way: _median_ms(run, q, k, v, lengths) for way, run in ways.items()}
            figures[f"{name}, {str(dtype).removeprefix('torch.')}"] = taken
    publish("attention", {"ms_per_layer": figures})


def padded(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Lay the rows side by side in one batch, each as long as the longest."""
    stacked = [
        torch.nn.utils.rnn.pad_sequence([row[0].transpose(0, 1) for row in tensor.split(lengths, 2)], batch_first=True)
        for tensor in (q, k, v)
    ]
    a, b, c = (tensor.transpose(1, 2) for tensor in stacked)
    return F.scaled_dot_product_attention(a, b, c, is_causal=True, enable_gqa=True)


def per_row(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Call torch's own kernel once for each row."""
    rows = zip(q.split(lengths, 2), k.split(lengths, 2), v.split(lengths, 2), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*row, is_causal=True, enable_gqa=True) for row in rows], 2)


def ours(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Call what training uses."""
    return packed_attention(torch.nn.Identity(), q, k, v, None, row_lengths=lengths)[0]


def _median_ms(run: Callable[..., Tensor], *arguments: object) -> float:
    taken = []
    for _ in range(9):
        started = time.perf_counter()
        out = run(*arguments)
        out.backward(torch.ones_like(out))
        taken.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(taken[2:]), 2)


if __name__ == "__main__":
    main()
