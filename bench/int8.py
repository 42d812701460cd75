"""Would 8-bit products do? Held-out loss of the bundled base with weights and activations rounded to 8 bits.

    python bench/int8.py [--data ../shared/data]

Weights are rounded per output, activations per token; some of an input's largest columns can stay as they are. Only
forward is simulated; beside it stands what the machine multiplies in 8 bits and in bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from report import publish
from torch import Tensor

from lamina.config import BaseSettings
from lamina.lora import linear
from lamina.model.base import load_base, resolve_base
from lamina.records import Quiet
from lamina.train.passes import mean_loss

sys.path.insert(0, str(Path(__file__).parent / "speed"))

from ours import pair_rows

SHAPES = ((576, 576), (3072, 576), (576, 1536))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    base = load_base(resolve_base(BaseSettings(), Quiet()))
    rows = pair_rows(base, options.data / "gsm8k" / "train.jsonl", 140)[100:]
    losses = {"as it is": mean_loss(base, rows)}
    for name, weights, kept in (
        ("weights", True, None),
        ("weights and activations", True, 0),
        ("weights and activations but 16 columns", True, 16),
    ):
        with rounded(weights=weights, kept_columns=kept):
            losses[name] = mean_loss(base, rows)
    publish("int8", {"loss": losses, "gops": {"int8": _rate(torch.int8), "bfloat16": _rate(torch.bfloat16)}})


@contextmanager
def rounded(*, weights: bool, kept_columns: int | None) -> Iterator[None]:
    """Round what products multiply; ``kept_columns`` None leaves activations alone."""
    plain = linear.Product.forward

    def forward(self: linear.Product, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        weight = _round(self.dense()) if weights else self.dense()
        if kept_columns is not None:
            largest = x.float().abs().amax(0).topk(kept_columns).indices
            rest = x.clone()
            rest[:, largest] = 0
            rest = _round(rest)
            rest[:, largest] = x[:, largest]
            x = rest
        y = x @ weight.t()
        return (y if add is None else y + add), None

    linear.Product.forward = forward  # type: ignore[method-assign]
    try:
        yield
    finally:
        linear.Product.forward = plain  # type: ignore[method-assign]


def _round(tensor: Tensor) -> Tensor:
    step = tensor.float().abs().amax(1, keepdim=True).clamp(min=1e-9) / 127
    return ((tensor.float() / step).round() * step).to(tensor.dtype)


def _rate(dtype: torch.dtype) -> float:
    flops, seconds = 0.0, 0.0
    for d_out, d_in in SHAPES:
        x, weight = (torch.randint(-99, 99, (size, d_in), dtype=torch.int8).to(dtype) for size in (1536, d_out))
        run: Callable[[], Tensor] = (
            (lambda x=x, w=weight: torch._int_mm(x, w.t()))
            if dtype == torch.int8
            else (lambda x=x, w=weight: x @ w.t())
        )
        taken = []
        for _ in range(12):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
        seconds += statistics.median(taken)
        flops += 2 * 1536 * d_out * d_in
    return round(flops / seconds / 1e9)


if __name__ == "__main__":
    main()
