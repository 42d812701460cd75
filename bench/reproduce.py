"""How far a layer moves when it is trained again under other conditions: what `lamina reproduce` tolerates elsewhere.

    python bench/reproduce.py

The figures stand in docs/design/reproduce.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from report import publish

from lamina.config import BaseSettings, Recipe
from lamina.data.read import read_rows
from lamina.data.render import Renderer
from lamina.demo.files import data_path
from lamina.kernels.reference import TorchKernels
from lamina.lora.adapter import Adapter, combine, scale_of
from lamina.lora.compare import adapter_norm
from lamina.lora.surgery import attach, fresh_adapter
from lamina.model import base as base_module
from lamina.model import packed
from lamina.model.base import load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.loop import train_steps
from lamina.train.memory import PassSizes
from lamina.train.passes import mean_loss
from lamina.train.state import TrainState

ROWS, HELDOUT = 160, 48
RECIPE = {"learning_rate": 7.5e-4, "epochs": 2.0}
Layer = tuple[Adapter, float]


def main() -> None:
    torch.set_num_threads(1)
    recorded = train()
    conditions: dict[str, Callable[[], Layer]] = {
        "again": train,
        "two threads": lambda: with_threads(2),
        "passes of 512 tokens": lambda: train(passes=[(1, 512)]),
        "torch's kernels": lambda: with_kernels(TorchKernels()),
        "float32": lambda: train(dtype=torch.float32),
        "another seed": lambda: train(seed=1),
        "another order of the same rows": lambda: train(turn=True),
    }
    figures = {}
    for name, run in conditions.items():
        adapter, loss = run()
        gap = adapter_norm(combine([recorded[0], adapter], [1.0, -1.0])) / adapter_norm(recorded[0])
        figures[name] = {"relative": gap, "loss": loss, "loss_difference": loss - recorded[1]}
        print(name, figures[name], flush=True)
    publish("reproduce", {"loss": recorded[1], "base_loss": bare_loss(), "rows": ROWS, "conditions": figures})


def train(
    *, passes: PassSizes = ((1, 2048),), dtype: torch.dtype | None = None, seed: int = 0, turn: bool = False
) -> Layer:
    """Return a layer and its held-out loss."""
    base = load_base(resolve_base(BaseSettings(), Quiet()), dtype=dtype)
    rows, heldout = read(base)
    recipe = Recipe(**RECIPE, seed=seed)
    attach(base.model, [])
    state = TrainState(fresh_adapter(base.model, recipe.rank, 0 if turn else seed), base.device)
    list(train_steps(base, state, rows[::-1] if turn else rows, recipe, passes=passes))
    loss = mean_loss(base, heldout)
    return state.adapter(scale_of(recipe.rank, recipe.alpha, rslora=recipe.rslora)), loss


def with_threads(count: int) -> Layer:
    """Train with so many threads."""
    torch.set_num_threads(count)
    try:
        return train()
    finally:
        torch.set_num_threads(1)


def with_kernels(kernels: Any) -> Layer:
    """Train with another set of kernels."""
    plain = base_module.pick_kernels
    for module in (base_module, packed):
        module.pick_kernels = lambda device: kernels
    try:
        return train()
    finally:
        for module in (base_module, packed):
            module.pick_kernels = plain


def bare_loss() -> float:
    """Return the held-out loss of the base alone."""
    base = load_base(resolve_base(BaseSettings(), Quiet()))
    return mean_loss(base, read(base)[1])


def read(base: Any) -> tuple[list[TokenRow], Sequence[TokenRow]]:
    """Return training and held-out rows of the demo's tools."""
    renderer = Renderer(base.tokenizer, base.template)
    rows = [renderer.row(row, max_length=base.context) for row in read_rows(data_path("tools_train.jsonl")).rows]
    return rows[:ROWS], rows[-HELDOUT:]


if __name__ == "__main__":
    main()
