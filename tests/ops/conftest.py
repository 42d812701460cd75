"""Adapters that real PEFT wrote and loads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from lamina.model.base import load_base
from lamina.ops.project import open_project
from lamina.records import Quiet


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
