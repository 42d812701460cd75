"""Layers that no training was needed for: random ones, and adapters that real PEFT wrote and loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lamina.lora.adapter import Factors, save_adapter
from lamina.model.base import load_base
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


@pytest.fixture
def foreign(tmp_path: Path, base_folders: dict[str, Path]) -> Callable[..., Path]:
    """Return a function that writes a PEFT folder for the tiny llama and returns its path."""

    def write(name: str = "elsewhere", *, seed: int = 1, **config: Any) -> Path:
        model = AutoModelForCausalLM.from_pretrained(base_folders["llama"])
        chosen = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], "task_type": "CAUSAL_LM"} | config
        adapted = get_peft_model(model, LoraConfig(**chosen))
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        folder = tmp_path / name
        adapted.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's own card, full of gaps
        return folder

    return write


def _logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = model(input_ids=torch.tensor([[5, 9, 33, 121, 7, 88, 64, 2]])).logits
    return out


@pytest.fixture
def stack_logits() -> Callable[[Path], torch.Tensor]:
    """Return a function that gives what the stack of the project in a folder computes, in float32."""

    def compute(folder: Path) -> torch.Tensor:
        project = open_project(folder, Quiet())
        project._loaded = load_base(project.base, dtype=torch.float32)
        return _logits(project.activate(project.stack()).model)

    return compute


@pytest.fixture
def peft_logits(base_folders: dict[str, Path]) -> Callable[[Path], tuple[torch.Tensor, torch.Tensor]]:
    """Return a function that gives what the tiny llama computes, and what real PEFT does with a folder on it."""

    def compute(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
        model = AutoModelForCausalLM.from_pretrained(base_folders["llama"])
        return _logits(model), _logits(PeftModel.from_pretrained(model, str(folder)))

    return compute
