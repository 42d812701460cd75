"""Layers and stacks in the store: written, read and listed."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.stack.manifest import (
    ID_KEY,
    LAYER_TYPE,
    STACK_TYPE,
    TITLE_KEY,
    Descriptor,
    LayerConfig,
    Manifest,
    StackConfig,
)
from lamina.stack.packing import layer_manifest, stack_manifest
from lamina.stack.store import Store

__all__ = [
    "has_prefix",
    "id_of",
    "list_layers",
    "list_stacks",
    "name_of",
    "pack_stack",
    "read_layer",
    "read_stack",
    "stack_digest",
    "term_of",
    "write_layer",
    "write_stack",
]

_SHORTEST_PREFIX = 4
_TALL = 8
_WHAT = {LAYER_TYPE: "layer", STACK_TYPE: "stack"}
_MODEL: dict[str, type[LayerConfig] | type[StackConfig]] = {LAYER_TYPE: LayerConfig, STACK_TYPE: StackConfig}
_Config = TypeVar("_Config", LayerConfig, StackConfig)


def write_layer(store: Store, config: LayerConfig) -> str:
    """Write a layer whose blobs are in the store already, and return its digest."""
    manifest = layer_manifest(store, config)
    store.put_bytes(config.canonical(), LAYER_TYPE)
    return _list(store, manifest, config.name)


def write_stack(store: Store, config: StackConfig) -> str:
    """Write a stack whose layers are in the store already, and return its digest."""
    manifest = pack_stack(store, config)
    store.put_bytes(config.canonical(), STACK_TYPE)
    return _list(store, manifest, name_of(config))


def pack_stack(store: Store, config: StackConfig, *, with_data: bool = True) -> Manifest:
    """Return the stack's OCI manifest (see ``lamina.stack.packing``), with or without its layers' sampled rows.

    Raises:
        StackError: if a layer, or one of its blobs, is missing or damaged.
    """
    layers = {entry.layer: read_layer(store, entry.layer) for entry in config.layers}
    return stack_manifest(store, config, layers, with_data=with_data)


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
    found = [(digest, read_layer(store, digest)) for digest in _listed(store, LAYER_TYPE)]
    return sorted(found, key=lambda pair: (pair[1].created, pair[0]))


def list_stacks(store: Store) -> list[str]:
    """Return the digest of every stack in the store, each once however many refs hold it."""
    return _listed(store, STACK_TYPE)


def stack_digest(config: StackConfig) -> str:
    """Return the digest that ``write_stack`` gives ``config``, without writing."""
    return str(Digest.of_bytes(config.canonical()))


def name_of(stack: StackConfig) -> str:
    """Return the stack's name for people: ``base+tools+facts:0.5``; of a tall stack the lowest and highest layers."""
    terms = [term_of(entry.name, entry.scale) for entry in stack.layers]
    if len(terms) > _TALL:
        terms = [*terms[:2], f"[{len(terms) - 4} more]", *terms[-2:]]
    return "+".join(["base", *terms])


def term_of(name: str, scale: float) -> str:
    """Return a layer's name, with its scale where that is not 1."""
    return name if scale == 1.0 else f"{name}:{scale:g}"


def has_prefix(digest: str, text: str) -> bool:
    """Return whether ``text`` (``sha256:`` optional, at least four digits) abbreviates ``digest``."""
    prefix = text.removeprefix("sha256:")
    return len(prefix) >= _SHORTEST_PREFIX and digest.removeprefix("sha256:").startswith(prefix)


def id_of(store: Store, item: Descriptor) -> str:
    """Return the digest of the layer or stack that an entry of the index lists.

    Raises:
        StackError: if the entry was not written by this version of lamina.
    """
    if ID_KEY not in item.annotations:
        raise StackError(
            f"{store.root}: index.json lists {item.digest[:19]} without the {ID_KEY} annotation",
            hint="an earlier version wrote it: start a new project with `lamina init` and train again",
        )
    return item.annotations[ID_KEY]


def _listed(store: Store, kind: str) -> list[str]:
    items = store.read_index().manifests
    return list(dict.fromkeys(id_of(store, item) for item in items if item.artifactType == kind))


def _list(store: Store, manifest: Manifest, title: str) -> str:
    """Put the manifest into the index, in place of an older one of the same layer or stack; return the digest."""
    digest, kind = manifest.config.digest, manifest.artifactType
    named = store.put_bytes(manifest.canonical(), manifest.mediaType)
    with store.lock():
        index = store.read_index()
        listed = [item for item in index.manifests if item.annotations.get(ID_KEY) == digest]
        if all(item.digest == named.digest for item in listed) and listed:
            return digest
        fresh = {"digest": named.digest, "size": named.size}
        items = [item.model_copy(update=fresh) if item in listed else item for item in index.manifests]
        if not listed:
            annotations = {ID_KEY: digest, TITLE_KEY: title}
            items.append(named.model_copy(update={"artifactType": kind, "annotations": annotations}))
        store.write_index(index.model_copy(update={"manifests": tuple(items)}))
    return digest


def _read(store: Store, digest: str, model: type[_Config], kind: str) -> _Config:
    content = store.read_bytes(digest)
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        other = next(name for name in _MODEL if name != kind)
        if _is_a(content, other):
            raise StackError(
                f"{digest[7:19]} is a {_WHAT[other]}, not a {_WHAT[kind]}", hint="`lamina log` lists both"
            ) from error
        hint = "upgrade lamina: a newer version wrote it" if _is_newer(error) else "pull or train it again"
        raise StackError(f"{_WHAT[kind]} {digest[7:19]} cannot be read", hint=hint) from error


def _is_a(content: bytes, kind: str) -> bool:
    try:
        _MODEL[kind].model_validate_json(content)
    except ValidationError:
        return False
    return True


def _is_newer(error: ValidationError) -> bool:
    return any(
        item["loc"] == ("format",) and isinstance(item["input"], int) and item["input"] > 1 for item in error.errors()
    )
