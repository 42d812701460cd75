"""The algebra's laws, tested and measured: random layers, and references that add them up one by one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lamina.lora.adapter import Adapter, Factors, scale_of
from lamina.lora.fold import fold
from lamina.lora.surgery import attach, detach, linear_paths, linear_weights


@dataclass(frozen=True)
class Layers:
    """Layers with their scales, and the unscaled factors they came from for a reference of its own."""

    adapters: list[dict[str, Factors]]
    scales: list[float]


def draw_layers(model: PreTrainedModel, count: int, *, seed: int, size: float = 0.05) -> Layers:
    """Return layers of unequal ranks, scaled as LoRA or rsLoRA, each without some of the maps.

    Each addition is about ``size`` times as large as the weight it is added to, whatever its rank.
    """
    chance = random.Random(seed)
    draw = torch.Generator().manual_seed(seed)
    detach(model)
    weights = linear_weights(model)
    paths = linear_paths(model)
    adapters, scales = [], []
    for _ in range(count):
        rank, rslora = chance.choice([1, 2, 4, 8]), chance.random() < 0.5
        folded = scale_of(rank, 16.0, rslora=rslora)
        kept = [path for path in paths if chance.random() < 0.8] or paths[:1]
        adapters.append({path: _factors(weights[path], rank, folded, size, draw) for path in kept})
        scales.append(chance.choice([1.0, 0.5, -0.7, 1.5]))
    return Layers(adapters, scales)


def _factors(weight: Tensor, rank: int, folded: float, size: float, draw: torch.Generator) -> Factors:
    d_out, d_in = weight.shape
    A = torch.randn(rank, d_in, generator=draw)
    B = torch.randn(d_out, rank, generator=draw) * folded
    norm = (rank * d_in * d_out) ** 0.5 * folded
    return Factors(A, B * (size * float(weight.norm()) / norm))


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor, adapters: Sequence[Adapter], scales: Sequence[float]) -> Tensor:
    """Return the model's logits with the layers attached, as lamina does it, and leave the model bare."""
    attach(model, adapters, scales)
    try:
        found: Tensor = model(input_ids=ids, use_cache=False).logits
        return found.clone()
    finally:
        detach(model)


@torch.no_grad()
def summed_logits(model: PreTrainedModel, ids: Tensor, layers: Layers) -> Tensor:
    """Return the logits when every map adds up its layers one by one, each by itself: the reference."""
    detach(model)
    with _hooks(model, layers):
        found: Tensor = model(input_ids=ids, use_cache=False).logits
        return found.clone()


@contextmanager
def _hooks(model: PreTrainedModel, layers: Layers) -> Iterator[None]:
    def add(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
            for adapter, scale in zip(layers.adapters, layers.scales, strict=True):
                if path in adapter:
                    y = y + scale * (inputs[0] @ adapter[path].A.t() @ adapter[path].B.t())
            return y

        return hook

    handles = [model.get_submodule(path).register_forward_hook(add(path)) for path in linear_paths(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def folded_logits(model: PreTrainedModel, ids: Tensor, adapters: Sequence[Adapter], scales: Sequence[float]) -> Tensor:
    """Return the logits with the layers folded into the weights, and put the weights back."""
    detach(model)
    weights = linear_weights(model)
    folded, _ = fold(weights, adapters, scales, torch.float32)
    kept = {path: weights[path].clone() for path in folded}
    try:
        for path, weight in folded.items():
            weights[path].copy_(weight)
        found: Tensor = model(input_ids=ids, use_cache=False).logits
        return found.clone()
    finally:
        for path, weight in kept.items():
            weights[path].copy_(weight)


def error(found: Tensor, wanted: Tensor) -> float:
    """Return the relative Frobenius error."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
