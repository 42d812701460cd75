"""``lamina diff`` of two layers: sizes, angles and likeness, map by map, from their factors."""

from __future__ import annotations

from lamina.errors import StackError
from lamina.lora.adapter import load_adapter
from lamina.lora.compare import Comparison, compare
from lamina.lora.surgery import detach, linear_weights
from lamina.ops.project import Project
from lamina.stack.layers import read_layer
from lamina.stack.resolve import resolve_layer

__all__ = ["compare_layers"]


def compare_layers(project: Project, a: str, b: str) -> tuple[str, str, Comparison]:
    """Return the digests of two layers, by name or digest prefix, and how they lie to one another.

    Raises:
        StackError: if a layer does not exist, or they belong to different bases.
    """
    digests = [resolve_layer(project.store, name).layer for name in (a, b)]
    layers = [read_layer(project.store, digest) for digest in digests]
    if layers[0].base.digest != layers[1].base.digest:
        raise StackError(
            f"layers '{a}' and '{b}' belong to different bases, {layers[0].base.name} and {layers[1].base.name}",
            hint="angles mean something on the same base only",
        )
    adapters = [load_adapter(project.store.blob_path(layer.weights)) for layer in layers]
    norms = None
    if layers[0].base.digest == project.base.pin.digest:
        model = project.loaded.model
        detach(model)
        norms = {path: float(weight.float().norm()) for path, weight in linear_weights(model).items()}
    return digests[0], digests[1], compare(adapters[0], adapters[1], norms)
