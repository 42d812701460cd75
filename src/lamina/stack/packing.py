"""Layers and stacks as OCI manifests: which blobs travel along, under which names.

A stack's manifest is whole: whoever fetches it has every layer's config and weights, the rows' identities, and the
parents' configs against which law 7 is checked. Sampled and held-out rows are the owner's data; they are listed only
where they are here, and left out when asked.
"""

from __future__ import annotations

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.stack.manifest import (
    DATASET_TYPE,
    EMPTY_TYPE,
    LAYER_TYPE,
    PATH_KEY,
    ROWS_TYPE,
    STACK_TYPE,
    TITLE_KEY,
    WEIGHTS_TYPE,
    Descriptor,
    LayerConfig,
    Manifest,
    StackConfig,
)
from lamina.stack.store import Store

__all__ = ["layer_manifest", "stack_manifest"]

_EMPTY = b"{}"


def layer_manifest(store: Store, config: LayerConfig) -> Manifest:
    """Return the manifest of a layer whose blobs are in the store.

    Raises:
        StackError: if its weights or row identities are not.
    """
    return Manifest(
        artifactType=LAYER_TYPE,
        config=_descriptor(config.canonical(), LAYER_TYPE),
        layers=tuple(_blobs(store, config, config.name, with_data=True)),
    )


def stack_manifest(
    store: Store, config: StackConfig, layers: dict[str, LayerConfig], *, with_data: bool = True
) -> Manifest:
    """Return the whole manifest of a stack; ``layers`` holds the config of each of its layers by digest.

    Raises:
        StackError: if a layer's weights or row identities are not in the store.
    """
    found: list[Descriptor] = []
    for place, entry in enumerate(config.layers):
        folder = f"{place}-{entry.name}"
        content = layers[entry.layer].canonical()
        found.append(_named(_descriptor(content, LAYER_TYPE), f"{folder}/layer.json"))
        found += _blobs(store, layers[entry.layer], folder, with_data=with_data)
    own = _descriptor(config.canonical(), STACK_TYPE)
    for parent in dict.fromkeys(layer.parent for layer in layers.values()):
        if parent != own.digest and store.has(parent):
            found.append(_blob(store, parent, STACK_TYPE, f"parents/{parent[7:19]}.json"))
    unique = tuple({item.digest: item for item in reversed(found)}.values())[::-1]
    if not unique:
        unique = (store.put_bytes(_EMPTY, EMPTY_TYPE),)
    return Manifest(artifactType=STACK_TYPE, config=own, layers=unique)


def _blobs(store: Store, config: LayerConfig, folder: str, *, with_data: bool) -> list[Descriptor]:
    found = [
        _blob(store, config.weights, WEIGHTS_TYPE, f"{folder}/weights.safetensors"),
        _blob(store, config.rows, ROWS_TYPE, f"{folder}/rows.txt"),
    ]
    if with_data:
        private = {"replay": config.replay, "heldout": config.heldout}
        found += [
            _blob(store, digest, DATASET_TYPE, f"{folder}/{name}.jsonl")
            for name, digest in private.items()
            if digest is not None and store.has(digest)
        ]
    return found


def _blob(store: Store, digest: str, media_type: str, title: str) -> Descriptor:
    if not store.has(digest):
        raise StackError(f"blob {digest[:19]} is missing from {store.root}", hint="put it into the store first")
    size = store.blob_path(digest).stat().st_size
    return _named(Descriptor(mediaType=media_type, digest=digest, size=size), title)


def _descriptor(content: bytes, media_type: str) -> Descriptor:
    return Descriptor(mediaType=media_type, digest=str(Digest.of_bytes(content)), size=len(content))


def _named(item: Descriptor, title: str) -> Descriptor:
    return item.model_copy(update={"annotations": {TITLE_KEY: title, PATH_KEY: title}})
