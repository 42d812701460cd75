"""A stack's manifest is whole, and leaves the owner's rows out when asked."""

from __future__ import annotations

import json

import pytest

from lamina.errors import StackError
from lamina.stack.layers import list_layers, pack_stack, read_layer, stack_digest, write_layer, write_stack
from lamina.stack.manifest import EMPTY_TYPE, ID_KEY, PATH_KEY, TITLE_KEY, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.store import Store


@pytest.fixture
def pair(store: Store, bare: StackConfig, bake) -> StackConfig:
    """Two layers, the upper one with rows of its owner."""
    write_stack(store, bare)
    on_a = add_layer(store, bare, bake("a"))
    write_stack(store, on_a)
    rows = {"replay": store.put_bytes(b"replay", "d").digest, "heldout": store.put_bytes(b"heldout", "d").digest}
    upper = write_layer(store, read_layer(store, bake("b", on_a)).model_copy(update=rows))
    return add_layer(store, on_a, upper)


def test_a_manifest_names_all_that_the_stack_needs(store: Store, bare: StackConfig, pair: StackConfig) -> None:
    manifest = pack_stack(store, pair)
    a, b = (read_layer(store, entry.layer) for entry in pair.layers)
    titles = {item.annotations[TITLE_KEY]: item.digest for item in manifest.layers}
    assert titles == {
        "0-a/layer.json": pair.layers[0].layer,
        "0-a/weights.safetensors": a.weights,
        "0-a/rows.txt": a.rows,
        "1-b/layer.json": pair.layers[1].layer,
        "1-b/weights.safetensors": b.weights,
        "1-b/replay.jsonl": b.replay,
        "1-b/heldout.jsonl": b.heldout,
        f"parents/{a.parent[7:19]}.json": stack_digest(bare),
        f"parents/{b.parent[7:19]}.json": b.parent,
    }  # both layers have the same rows.txt, which is there once
    assert manifest.config.digest == stack_digest(pair)
    for item in manifest.layers:
        assert len(store.read_bytes(item.digest)) == item.size
        assert item.annotations[PATH_KEY] == item.annotations[TITLE_KEY]


def test_rows_stay_at_home_when_asked_and_the_stack_is_the_same(store: Store, pair: StackConfig) -> None:
    whole, bare = pack_stack(store, pair), pack_stack(store, pair, with_data=False)
    assert {item.digest for item in whole.layers} - {item.digest for item in bare.layers} == {
        store.put_bytes(b"replay", "d").digest,
        store.put_bytes(b"heldout", "d").digest,
    }
    assert whole.config == bare.config


def test_a_bare_base_has_one_empty_blob(store: Store, bare: StackConfig) -> None:
    (only,) = pack_stack(store, bare).layers
    assert (only.mediaType, store.read_bytes(only.digest)) == (EMPTY_TYPE, b"{}")


def test_a_layer_whose_rows_are_elsewhere_is_a_layer(store: Store, pair: StackConfig) -> None:
    upper = read_layer(store, pair.layers[1].layer)
    store.blob_path(upper.replay).unlink()
    before = store.read_index()
    assert write_layer(store, upper) == pair.layers[1].layer
    after = store.read_index()
    assert len(before.manifests) == len(after.manifests)  # listed once, by its new manifest
    assert "replay" not in json.dumps([item.annotations for item in pack_stack(store, pair).layers])


def test_an_index_from_before_is_explained(store: Store, bake) -> None:
    bake("a")
    index = store.read_index()
    bald = tuple(item.model_copy(update={"annotations": {}}) for item in index.manifests)
    store.write_index(index.model_copy(update={"manifests": bald}))
    with pytest.raises(StackError, match=f"without the {ID_KEY} annotation") as caught:
        list_layers(store)
    assert "lamina init" in caught.value.hint
