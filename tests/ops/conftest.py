"""A project with layers in it that no training was needed for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lamina.lora.adapter import Factors, save_adapter
from lamina.ops.project import open_project
from lamina.records import Quiet
from lamina.stack.layers import stack_digest, write_layer, write_stack
from lamina.stack.lineage import get_current, set_ref
from lamina.stack.manifest import ROWS_TYPE, WEIGHTS_TYPE, Cost, DataSource, LayerConfig, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.resolve import resolve

Grow = Callable[..., StackConfig]


@pytest.fixture
def grow(project: Path) -> Grow:
    """Return a function that puts a layer of random weights on top of the current branch, as training would."""
    opened = open_project(project, Quiet())
    store, pin = opened.store, opened.base.pin

    def make(name: str, seconds: float = 60.0) -> StackConfig:
        branch, held = get_current(store)
        stack = resolve(store, branch, pin)
        random = torch.Generator().manual_seed(len(stack.layers))
        maps = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")
        weights = {
            path: Factors(torch.randn(4, 32, generator=random), torch.randn(64, 4, generator=random)) for path in maps
        }
        file = project / f"{name}.safetensors"
        save_adapter(weights, file)
        config = LayerConfig(
            name=name,
            base=pin,
            parent=stack_digest(stack),
            weights=store.put_file(file, WEIGHTS_TYPE).digest,
            rank=4,
            modules=maps,
            recipe={"rank": 4},
            recipe_origins={"rank": "flag"},
            data=(DataSource(file=f"{name}.jsonl", digest=pin.digest, rows=2),),
            rows=store.put_bytes(name.encode(), ROWS_TYPE).digest,
            replay=None,
            heldout=None,
            cost=Cost(tokens=1000, trained_tokens=700, seconds=seconds, steps=2),
            heldout_loss_before=2.0,
            heldout_loss_after=1.0,
            machine={"cpu": "x"},
            versions={"lamina": "0"},
            created=f"2026-01-0{len(stack.layers) + 1}T00:00:00+00:00",
        )
        grown = add_layer(store, stack, write_layer(store, config))
        set_ref(store, branch, write_stack(store, grown), why=f"train {name}", expect=held)
        return grown

    return make
