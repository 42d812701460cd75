"""What lies between matrix products, three ways: torch's operations, torch.compile, and the compiled kernels.

python bench/products.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from report import publish

from lamina.kernels.compiled import compile_kernels
from lamina.kernels.reference import TorchKernels
from lamina.kernels.shapes import Heads, Kernels, Mask, Places, Turns
from lamina.model.machine import keep_freed_memory, pick_kernels

TOKENS, ROWS, LENGTH = 1536, 8, 192


def main() -> None:
    keep_freed_memory()
    ways: dict[str, Kernels] = {
        "torch": TorchKernels(),
        "torch.compile": compile_kernels(),
        "native": pick_kernels(torch.device("cpu")),
    }
    figures: dict[str, dict[str, float]] = {}
    for way, kernels in ways.items():
        for name, run in _calls(kernels).items():
            started = time.perf_counter()
            run()
            first_s = time.perf_counter() - started
            figures.setdefault(name, {})[way] = _median_ms(run)
            if way == "torch.compile":
                figures[name]["torch.compile, first call in s"] = round(first_s, 2)
    publish("products", {"dtype": "bfloat16", "tokens": TOKENS, "ms": figures})


def _calls(kernels: Kernels) -> dict[str, Callable[[], object]]:
    heads = Heads(9, 3, 64)
    x, g = (torch.randn(TOKENS, 576).bfloat16() for _ in range(2))
    weight, both, opened = torch.rand(576), torch.randn(TOKENS, 3072).bfloat16(), torch.randn(TOKENS, 1536).bfloat16()
    scores = torch.randn(ROWS * 3, 3, LENGTH, LENGTH).bfloat16()
    slope, logits = scores.clone(), torch.randn(256, 49152).bfloat16()
    qkv, places = torch.randn(TOKENS, heads.line).bfloat16(), Places(torch.arange(TOKENS).view(ROWS, LENGTH))
    turns = Turns(torch.rand(TOKENS, 64), torch.rand(TOKENS, 64))
    return {
        "norm": lambda: kernels.norm(x, weight, 1e-5),
        "norm, backward and again": lambda: kernels.norm_backward(g, x, weight, 1e-5, add=g, again=True),
        "gate": lambda: kernels.gate(both, gelu=False),
        "gate, backward and again": lambda: kernels.gate_backward_(both, opened, gelu=False),
        "heads split and turned": lambda: kernels.split(qkv, turns, places, heads),
        f"causal softmax of {ROWS} rows of {LENGTH}": lambda: kernels.softmax_(scores, Mask(), 0.125, None),
        "causal softmax, backward": lambda: kernels.softmax_backward_(slope, scores, None, Mask(), 0.125),
        "cross-entropy with gradient, 256 rows": lambda: kernels.cross_entropy_(
            logits, torch.arange(256), 1.0, None, with_slope=True
        ),
    }


def _median_ms(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(9):
        started = time.perf_counter()
        run()
        taken.append((time.perf_counter() - started) * 1e3)
    return round(statistics.median(taken), 2)


if __name__ == "__main__":
    main()
