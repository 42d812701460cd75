"""Putting layers onto a model and taking them off again.

    model.layers.0.mlp.up_proj   nn.Linear      --attach-->   LoRALinear(nn.Linear)
                                                <--detach--

A base may also be quantised, for good:

    model.layers.0.mlp.up_proj   nn.Linear      --quantise-->   QuantisedLinear

A model is frozen before surgery and equal to itself, bit for bit, after ``detach``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lamina.errors import StackError
from lamina.lora.adapter import Adapter, Factors, combine
from lamina.lora.linear import LoRALinear
from lamina.lora.quantised import QuantisedLinear

__all__ = [
    "attach",
    "detach",
    "fits",
    "fresh_adapter",
    "linear_paths",
    "linear_shapes",
    "linear_weights",
    "quantise_linears",
    "set_trained",
    "silenced",
    "transposed_paths",
]


def linear_paths(model: PreTrainedModel) -> list[str]:
    """Return the paths of every linear map but the output head, in the model's order: what "all-linear" means.

    Source: Dettmers et al. 2023 (QLoRA, arXiv:2305.14314, section 4): adapting all linear maps is what makes LoRA
    match full tuning. The head is left alone because it is tied to the embeddings in most small models.
    """
    head = model.get_output_embeddings()
    kinds = (nn.Linear, Conv1D, LoRALinear, QuantisedLinear)
    return [path for path, module in model.named_modules() if isinstance(module, kinds) and module is not head]


def linear_shapes(model: PreTrainedModel) -> dict[str, tuple[int, int]]:
    """Return (d_out, d_in) of every linear map but the output head, by path."""
    return {path: _shape_of(model.get_submodule(path)) for path in linear_paths(model)}


def transposed_paths(model: PreTrainedModel) -> list[str]:
    """Return the paths of the linear maps whose weights the base stores as (d_in, d_out), as GPT-2 does."""
    modules = [(path, model.get_submodule(path)) for path in linear_paths(model)]
    originals = [(path, module.original if isinstance(module, LoRALinear) else module) for path, module in modules]
    return [path for path, module in originals if isinstance(module, Conv1D)]


def linear_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the (d_out, d_in) weight of every linear map but the head, of a model without layers on it.

    They are the model's own memory, so that writing into one changes the model; a quantised one is a copy.
    """
    found = {path: _linear_of(model.get_submodule(path))[0] for path in linear_paths(model)}
    return {path: held.weight if isinstance(held, QuantisedLinear) else held for path, held in found.items()}


def attach(model: nn.Module, adapters: Sequence[Adapter], scales: Sequence[float] | None = None) -> None:
    """Make the sum of ``adapters`` active and frozen on ``model``, in place of whatever was active before.

    Raises:
        StackError: if an adapter names a map that the model lacks, or of another shape.
    """
    detach(model)
    for path, factors in combine(adapters, scales).items():
        wrapper = _wrap(model, path)
        expected = (wrapper.in_features, wrapper.out_features)
        if (factors.A.shape[1], factors.B.shape[0]) != expected:
            found = (factors.A.shape[1], factors.B.shape[0])
            raise StackError(f"layer does not fit the base: {path} maps {expected}, the layer {found}")
        wrapper.freeze(factors)


def fits(model: PreTrainedModel, adapter: Adapter) -> bool:
    """Return whether ``model`` has every linear map that ``adapter`` adapts, of the same widths."""
    shapes = linear_shapes(model)
    return all(shapes.get(path) == (factors.B.shape[0], factors.A.shape[1]) for path, factors in adapter.items())


def set_trained(model: nn.Module, pairs: dict[str, tuple[nn.Parameter, nn.Parameter]], scale: float) -> None:
    """Put trainable pairs of factors on ``model``, over the frozen layers that are attached."""
    for path, pair in pairs.items():
        wrapper = _wrap(model, path)
        wrapper.trained = pair
        wrapper.scale = scale


@contextmanager
def silenced(model: nn.Module) -> Iterator[None]:
    """Leave the layer in training out for a while: within, ``model`` is its parent, with no copy of it in memory."""
    pairs = {each: each.trained for each in model.modules() if isinstance(each, LoRALinear)}
    for each in pairs:
        each.trained = None
    try:
        yield
    finally:
        for each, pair in pairs.items():
            each.trained = pair


def detach(model: nn.Module) -> None:
    """Take every layer off ``model`` and put its own linear maps back."""
    for path, module in list(model.named_modules()):
        if isinstance(module, LoRALinear):
            _replace(model, path, module.original)


def fresh_adapter(model: PreTrainedModel, rank: int, seed: int) -> dict[str, Factors]:
    """Return new factors for every linear map: A uniform in +-1/sqrt(d_in), B zero, so that nothing changes yet.

    Each map draws from its own generator, so its start does not depend on which other maps there are.

    Source: Hu et al. 2021, section 4.1; the bound is PEFT's (kaiming uniform with a = sqrt(5)).
    """
    adapter = {}
    for index, path in enumerate(linear_paths(model)):
        d_out, d_in = _shape_of(model.get_submodule(path))
        generator = torch.Generator().manual_seed(seed * 100_003 + index)
        A = (torch.rand(rank, d_in, generator=generator) * 2 - 1) / d_in**0.5
        adapter[path] = Factors(A, torch.zeros(d_out, rank))
    return adapter


def quantise_linears(model: PreTrainedModel, how: Literal["int8", "nf4"], device: torch.device) -> None:
    """Replace every linear map but the head by a quantised one on ``device``, each before the next is touched.

    Raises:
        MachineError: if ``how`` needs a package that is not installed.
    """
    for path in linear_paths(model):
        weight, bias = _linear_of(model.get_submodule(path))
        if isinstance(weight, Tensor):
            _replace(model, path, QuantisedLinear(weight.to(device), bias, how))


def _wrap(model: nn.Module, path: str) -> LoRALinear:
    try:
        module = model.get_submodule(path)
    except AttributeError as error:
        raise StackError(f"layer does not fit the base: the base has no linear map {path}") from error
    if isinstance(module, LoRALinear):
        return module
    wrapper = LoRALinear(module, *_linear_of(module))
    _replace(model, path, wrapper)
    return wrapper


def _shape_of(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, LoRALinear):
        return module.out_features, module.in_features
    weight, _ = _linear_of(module)
    return weight.shape[0], weight.shape[1]


def _linear_of(module: nn.Module) -> tuple[Tensor | QuantisedLinear, Tensor | None]:
    if isinstance(module, QuantisedLinear):
        return module, module.bias
    if not isinstance(module, nn.Linear | Conv1D):
        raise StackError(f"layer does not fit the base: it adapts a {type(module).__name__}, which is not linear")
    weight = module.weight.detach()
    bias = None if module.bias is None else module.bias.detach()
    return (weight.t() if isinstance(module, Conv1D) else weight), bias


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
