"""Whatever breaks is named; what can be mended without guessing is."""

from __future__ import annotations

import pytest

from lamina.stack.fsck import check_store
from lamina.stack.layers import read_layer, stack_digest, write_stack
from lamina.stack.lineage import get_ref, history, list_refs, set_head, set_ref
from lamina.stack.manifest import ID_KEY, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.store import Store


@pytest.fixture
def grown(store: Store, bare: StackConfig, bake) -> StackConfig:
    set_ref(store, "main", write_stack(store, bare), why="init")
    on_a = add_layer(store, bare, bake("a"))
    set_ref(store, "main", write_stack(store, on_a), why="train a")
    on_b = add_layer(store, on_a, bake("b", on_a))
    set_ref(store, "main", write_stack(store, on_b), why="train b")
    set_ref(store, "side", stack_digest(on_a), why="branch")
    return on_b


def test_a_whole_store_has_no_findings(store: Store, grown: StackConfig) -> None:
    read = []
    assert check_store(store, read.append) == []
    assert sum(read) == sum(path.stat().st_size for path in (store.root / "blobs" / "sha256").iterdir())


@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_branch_goes_back_to_its_last_whole_stack(store: Store, grown: StackConfig, harm: str) -> None:
    weights = store.blob_path(read_layer(store, grown.layers[1].layer).weights)
    content = weights.read_bytes()
    if harm == "remove":
        weights.unlink()
    else:
        weights.write_bytes(content[:-1] if harm == "truncate" else bytes([content[0] ^ 1]) + content[1:])
    findings = {finding.where: finding for finding in check_store(store)}
    assert findings["main"].mended
    assert "the weights of layer b are missing or damaged" in findings["main"].what
    assert get_ref(store, "main") == get_ref(store, "side") == history(store, "main")[0].new
    assert history(store, "main")[0].why.startswith("fsck: ")
    if harm != "remove":
        assert not findings[f"sha256:{weights.name}"].mended
        weights.write_bytes(content)
        assert check_store(store) == []


def test_a_branch_without_a_whole_past_and_a_tag_are_left(store: Store, grown: StackConfig) -> None:
    set_ref(store, "v1", stack_digest(grown), why="tag", tag=True)
    store.blob_path(grown.layers[0].layer).unlink()
    findings = {finding.where: finding for finding in check_store(store)}
    assert get_ref(store, "main") == history(store, "main")[-1].new  # the bare base was whole
    assert not findings["side"].mended
    assert not findings["v1"].mended


@pytest.mark.parametrize("content", [None, b'{"schemaVersion": 2, "manif'])
def test_a_lost_index_is_written_anew(store: Store, grown: StackConfig, content: bytes | None) -> None:
    refs, index = list_refs(store), store.root / "index.json"
    listed = {item.digest for item in store.read_index().manifests}
    index.unlink() if content is None else index.write_bytes(content)
    (finding,) = check_store(store)
    assert (finding.where, finding.mended) == ("index.json", True)
    assert list_refs(store) == refs
    assert {item.digest for item in store.read_index().manifests} == listed


def test_a_lost_manifest_is_written_anew(store: Store, grown: StackConfig) -> None:
    item = next(item for item in store.read_index().manifests if item.annotations[ID_KEY] == stack_digest(grown))
    store.blob_path(item.digest).write_bytes(b"junk")
    findings = check_store(store)
    assert [finding.mended for finding in findings] == [False, True]  # seen damaged, then replaced
    assert check_store(store) == []


def test_a_head_that_names_nothing_is_main_again(store: Store, grown: StackConfig) -> None:
    set_head(store, "side")
    (store.root / "HEAD").write_text("gone\n")
    (finding,) = check_store(store)
    assert (finding.where, finding.mended) == ("HEAD", True)
    assert check_store(store) == []
