"""Layers and stacks in the store: written, read, added, dropped, and checked against each other."""

from __future__ import annotations

import math
from typing import TypeVar

from pydantic import ValidationError

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.stack.manifest import (
    LAYER_TYPE,
    STACK_TYPE,
    BasePin,
    Descriptor,
    LayerConfig,
    Manifest,
    StackConfig,
    StackEntry,
)
from lamina.stack.store import Store

__all__ = [
    "add_layer",
    "check_parents",
    "drop_layer",
    "has_prefix",
    "list_layers",
    "list_stacks",
    "read_layer",
    "read_stack",
    "stack_digest",
    "write_layer",
    "write_stack",
]

_SHORTEST_PREFIX = 4
_WHAT = {LAYER_TYPE: "layer", STACK_TYPE: "stack"}
_Config = TypeVar("_Config", LayerConfig, StackConfig)


def write_layer(store: Store, config: LayerConfig) -> str:
    """Write a layer whose blobs are in the store already, and return its digest."""
    blobs = [
        _blob(store, digest, media_type)
        for digest, media_type in (
            (config.weights, "application/vnd.lamina.layer.weights.v1.safetensors"),
            (config.rows, "application/vnd.lamina.layer.rows.v1+text"),
            (config.replay, "application/vnd.lamina.layer.replay.v1+jsonl"),
            (config.heldout, "application/vnd.lamina.layer.heldout.v1+jsonl"),
        )
        if digest is not None
    ]
    return _write(store, LAYER_TYPE, config.canonical(), blobs, config.name)


def write_stack(store: Store, config: StackConfig) -> str:
    """Write a stack and return its digest."""
    manifest, content = _stack_manifest(config)
    return _write(store, STACK_TYPE, content, list(manifest.layers), "+".join(["base", *_names(config)]))


def read_layer(store: Store, digest: str) -> LayerConfig:
    """Return the layer with this digest.

    Raises:
        StackError: if it is missing, damaged, or of a newer format.
    """
    return _read(store, digest, LayerConfig, LAYER_TYPE)


def read_stack(store: Store, digest: str) -> StackConfig:
    """Return the stack with this digest.

    Raises:
        StackError: if it is missing, damaged, or of a newer format.
    """
    return _read(store, digest, StackConfig, STACK_TYPE)


def list_layers(store: Store) -> list[tuple[str, LayerConfig]]:
    """Return every layer in the store with its digest, oldest first, whether or not a ref reaches it."""
    found = [
        (item.digest, read_layer(store, item.digest))
        for item in store.read_index().manifests
        if item.artifactType == LAYER_TYPE
    ]
    return sorted(found, key=lambda pair: (pair[1].created, pair[0]))


def list_stacks(store: Store) -> list[str]:
    """Return the digest of every stack in the store, each once however many refs hold it."""
    items = store.read_index().manifests
    return list(dict.fromkeys(item.digest for item in items if item.artifactType == STACK_TYPE))


def stack_digest(config: StackConfig) -> str:
    """Return the digest that ``write_stack`` gives ``config``, without writing."""
    manifest, _ = _stack_manifest(config)
    return str(Digest.of_bytes(manifest.canonical()))


def add_layer(store: Store, stack: StackConfig, layer: str, scale: float = 1.0) -> StackConfig:
    """Return ``stack`` with ``layer`` (a digest) on top.

    Raises:
        StackError: if the layer is missing or damaged, or ``scale`` is not a finite number.
    """
    if not math.isfinite(scale):
        raise StackError(f"scale {scale} of layer {layer[7:19]} is not a finite number", hint="for example: 0.5")
    entry = StackEntry(layer=layer, name=read_layer(store, layer).name, scale=scale)
    return stack.model_copy(update={"layers": (*stack.layers, entry)})


def drop_layer(stack: StackConfig, name: str) -> StackConfig:
    """Return ``stack`` without the topmost layer called ``name``, or whose digest starts with ``name``.

    Raises:
        StackError: if it has none, or the digits fit several layers.
    """
    places = [index for index, entry in enumerate(stack.layers) if entry.name == name]
    if not places:
        places = [index for index, entry in enumerate(stack.layers) if has_prefix(entry.layer, name)]
        if len(fits := {stack.layers[index].layer for index in places}) > 1:
            raise StackError(
                f"'{name}' is short for {len(fits)} layers", hint=f"type more digits of {' or '.join(sorted(fits))}"
            )
    if not places:
        raise StackError(
            f"no layer '{name}' in this stack", hint=f"its layers are: {', '.join(_names(stack)) or 'none'}"
        )
    kept = tuple(entry for index, entry in enumerate(stack.layers) if index != places[-1])
    return stack.model_copy(update={"layers": kept})


def skill_of(stack: StackConfig, name: str) -> str:
    """Return the skill that the layer ``name`` serves: ``tools`` for its update ``tools.2``, else the name itself."""
    skill, _, number = name.rpartition(".")
    return skill if number.isdigit() and skill in _names(stack) else name


def has_prefix(digest: str, text: str) -> bool:
    """Return whether ``text`` (``sha256:`` optional, at least four digits) abbreviates ``digest``."""
    prefix = text.removeprefix("sha256:")
    return len(prefix) >= _SHORTEST_PREFIX and digest.removeprefix("sha256:").startswith(prefix)


def check_parents(store: Store, stack: StackConfig, base: BasePin) -> None:
    """Check that a stack is on ``base``, and each layer on the base and parent stack it was trained on (law 7).

    Raises:
        StackError: naming the first layer that does not, what it expects, and what it found.
    """
    for height, entry in enumerate(stack.layers):
        layer = read_layer(store, entry.layer)
        if layer.base.digest != base.digest:
            raise StackError(
                f"layer '{layer.name}' was trained on base {layer.base.name} ({layer.base.digest[7:19]}), "
                f"this is {base.name} ({base.digest[7:19]})",
                hint="use the base it was trained on; --force loads it anyway, and its answers may be noise",
            )
        below = stack.model_copy(update={"layers": stack.layers[:height]})
        # The same base under another name or path is the same base: the layer's own pin spells its parent too.
        as_trained = below.model_copy(update={"base": layer.base})
        if layer.parent not in (stack_digest(below), stack_digest(as_trained)):
            raise StackError(
                f"layer '{layer.name}' was trained on stack {layer.parent[7:19]}, below it here is "
                f"{'+'.join(['base', *_names(below)])} ({stack_digest(below)[7:19]})",
                hint="stack it on its own parent; --force loads it anyway: measure it with `lamina eval` before use",
            )
    if stack.base.digest != base.digest:
        raise StackError(
            f"the stack is on base {stack.base.name} ({stack.base.digest[7:19]}), "
            f"this is {base.name} ({base.digest[7:19]})",
            hint="use the base it was made on",
        )


def _names(stack: StackConfig) -> list[str]:
    return [entry.name if entry.scale == 1.0 else f"{entry.name}:{entry.scale:g}" for entry in stack.layers]


def _stack_manifest(config: StackConfig) -> tuple[Manifest, bytes]:
    content = config.canonical()
    own = Descriptor(mediaType=STACK_TYPE, digest=str(Digest.of_bytes(content)), size=len(content))
    # Sizes of layers are left to the layers' own manifests, so that the digest can be told without reading them.
    layers = tuple(
        Descriptor(mediaType="application/vnd.oci.image.manifest.v1+json", digest=entry.layer, size=0)
        for entry in config.layers
    )
    return Manifest(artifactType=STACK_TYPE, config=own, layers=layers), content


def _blob(store: Store, digest: str, media_type: str) -> Descriptor:
    if not store.has(digest):
        raise StackError(f"blob {digest[:19]} is missing from {store.root}", hint="put it into the store first")
    return Descriptor(mediaType=media_type, digest=digest, size=store.blob_path(digest).stat().st_size)


def _write(store: Store, kind: str, content: bytes, blobs: list[Descriptor], title: str) -> str:
    config = store.put_bytes(content, kind)
    manifest = Manifest(artifactType=kind, config=config, layers=tuple(blobs))
    named = store.put_bytes(manifest.canonical(), manifest.mediaType)
    with store.lock():
        index = store.read_index()
        if all(item.digest != named.digest for item in index.manifests):
            listed = named.model_copy(
                update={"artifactType": kind, "annotations": {"org.opencontainers.image.title": title}}
            )
            store.write_index(index.model_copy(update={"manifests": (*index.manifests, listed)}))
    return named.digest


def _read(store: Store, digest: str, model: type[_Config], kind: str) -> _Config:
    what = _WHAT[kind]
    try:
        manifest = Manifest.model_validate_json(store.read_bytes(digest))
        if manifest.artifactType != kind and manifest.artifactType in _WHAT:
            raise StackError(
                f"{digest[7:19]} is a {_WHAT[manifest.artifactType]}, not a {what}", hint="`lamina log` lists both"
            )
        stored = store.read_bytes(manifest.config.digest)
        return model.model_validate_json(stored)
    except ValidationError as error:
        hint = "upgrade lamina: a newer version wrote it" if _is_newer(error) else "pull or train it again"
        raise StackError(f"{what} {digest[7:19]} cannot be read", hint=hint) from error


def _is_newer(error: ValidationError) -> bool:
    return any(
        item["loc"] == ("format",) and isinstance(item["input"], int) and item["input"] > 1 for item in error.errors()
    )
