"""What carrying, realigning and retraining a layer on a newer base give, and at which rate realigning does best.

    python bench/rebase.py

The newer base is the bundled one with noise on every matrix, as a share of its spread. The figures stand in
docs/design/rebase.md.
"""

from __future__ import annotations

from typing import Any

import torch
from report import publish

from lamina.config import BaseSettings, Recipe
from lamina.data.read import read_rows
from lamina.data.render import Renderer
from lamina.demo.files import data_path
from lamina.lora.adapter import Adapter, rescale, scale_of
from lamina.lora.surgery import attach, fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.loop import train_steps
from lamina.train.passes import mean_loss
from lamina.train.state import TrainState

ROWS, HELDOUT, REALIGN_STEPS = 120, 48, 8
RECIPE = Recipe(learning_rate=7.5e-4, epochs=2.0)
NOISE = (0.02, 0.05, 0.1)
RATES = (0.1, 0.25, 0.5, 1.0)


def main() -> None:
    base = load_base(resolve_base(BaseSettings(), Quiet()))
    rows, heldout = read(base)
    without = measure(base, heldout)
    layer = train(base, rows, RECIPE)
    loss = measure(base, heldout, layer)
    print(f"old base: {without:.4f} -> {loss:.4f}", flush=True)
    found = [{"noise": share, **on_newer(share, layer, rows, heldout)} for share in NOISE]
    publish("rebase", {"without": without, "loss": loss, "newer": found})


def on_newer(share: float, layer: Adapter, rows: list[TokenRow], heldout: list[TokenRow]) -> dict[str, Any]:
    """Return the held-out losses of the three steps on a base with that much noise."""
    base = load_base(resolve_base(BaseSettings(), Quiet()))
    draw = torch.Generator().manual_seed(1)
    for parameter in base.model.parameters():
        if parameter.dim() == 2:
            noise = torch.randn(parameter.shape, generator=draw) * (share * float(parameter.float().std()))
            parameter.data.copy_(parameter.data + noise.to(parameter.dtype))
    figures: dict[str, Any] = {"without": measure(base, heldout), "carry": measure(base, heldout, layer)}
    epochs = REALIGN_STEPS * RECIPE.batch_rows / len(rows)
    for rate in RATES:
        short = RECIPE.model_copy(update={"epochs": epochs, "learning_rate": RECIPE.learning_rate * rate})
        figures[f"realign at {rate}"] = measure(base, heldout, train(base, rows, short, layer))
    figures["retrain"] = measure(base, heldout, train(base, rows, RECIPE))
    print(share, figures, flush=True)
    return figures


def train(base: LoadedBase, rows: list[TokenRow], recipe: Recipe, start: Adapter | None = None) -> Adapter:
    """Return a layer trained on ``rows``."""
    scale = scale_of(recipe.rank, recipe.alpha, rslora=recipe.rslora)
    attach(base.model, [])
    fresh = fresh_adapter(base.model, recipe.rank, recipe.seed)
    state = TrainState(fresh if start is None else rescale(start, 1 / scale), base.device)
    list(train_steps(base, state, rows, recipe))
    return state.adapter(scale)


def measure(base: LoadedBase, heldout: list[TokenRow], layer: Adapter | None = None) -> float:
    """Return the loss on held-out rows, in nats per trained token."""
    attach(base.model, [] if layer is None else [layer])
    return mean_loss(base, heldout)


def read(base: LoadedBase) -> tuple[list[TokenRow], list[TokenRow]]:
    """Return training and held-out rows of the demo's tools."""
    renderer = Renderer(base.tokenizer, base.template)
    rows = [renderer.row(row, max_length=base.context) for row in read_rows(data_path("tools_train.jsonl")).rows]
    return rows[:ROWS], rows[-HELDOUT:]


if __name__ == "__main__":
    main()
