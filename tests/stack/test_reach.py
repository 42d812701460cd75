"""Garbage collection takes nothing that a ref reaches, and all that none does."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import StackError
from lamina.stack.fsck import check_store
from lamina.stack.layers import list_layers, list_stacks, read_layer, read_stack, stack_digest, write_stack
from lamina.stack.lineage import delete_ref, history, list_refs, set_ref
from lamina.stack.manifest import StackConfig
from lamina.stack.order import add_layer, drop_layer
from lamina.stack.reach import collect_garbage, find_garbage
from lamina.stack.store import Store


@pytest.fixture
def grown(store: Store, bare: StackConfig, bake) -> StackConfig:
    """``main`` went from the base over a to a+b and back to a."""
    set_ref(store, "main", write_stack(store, bare), why="init")
    on_a = add_layer(store, bare, bake("a"))
    set_ref(store, "main", write_stack(store, on_a), why="train a")
    set_ref(store, "main", write_stack(store, add_layer(store, on_a, bake("b", on_a))), why="train b")
    set_ref(store, "main", write_stack(store, on_a), why="drop b")
    return on_a


def named(store: Store) -> list[str]:
    return sorted(layer.name for _, layer in list_layers(store))


def test_what_undo_could_bring_back_is_kept_unless_told(store: Store, grown: StackConfig) -> None:
    assert find_garbage(store, grace_s=0).layers == ()
    plan = find_garbage(store, forget_history=True, grace_s=0)
    assert [name for name, _ in plan.layers] == ["b"]
    assert named(store) == ["a", "b"]  # a plan removes nothing
    gone = collect_garbage(store, forget_history=True, grace_s=0)
    assert (gone.layers, gone.files) == (plan.layers, plan.files)
    assert gone.size_bytes > 0
    assert named(store) == ["a"]
    assert [move.why for move in history(store, "main")] == ["drop b"]
    assert check_store(store) == []


def test_a_candidate_goes_and_an_hour_old_one_stays(store: Store, grown: StackConfig, bake) -> None:
    candidate = bake("refused", grown)
    assert find_garbage(store).layers == ()
    old = 3700
    for path in (store.root / "blobs" / "sha256").iterdir():
        os.utime(path, (path.stat().st_atime - old, path.stat().st_mtime - old))
    assert collect_garbage(store).layers == (("refused", candidate),)
    assert check_store(store) == []


def test_what_a_command_in_flight_puts_again_is_young_again(store: Store, grown: StackConfig) -> None:
    blob = store.put_bytes(b"of a run", "t").digest
    os.utime(store.blob_path(blob), (0, 0))
    assert find_garbage(store).files == (store.blob_path(blob),)
    store.put_bytes(b"of a run", "t")
    assert find_garbage(store).files == ()


def test_scratch_files_of_the_dead_go(store: Store, grown: StackConfig) -> None:
    scratch = store.root / "blobs" / "sha256" / ".weights-1"
    scratch.write_bytes(b"half")
    download = store.partial_path("sha256:" + "0" * 64)
    download.parent.mkdir(exist_ok=True)
    download.write_bytes(b"half")
    collect_garbage(store, grace_s=0)
    assert not scratch.exists()
    assert not download.exists()


def test_nothing_is_removed_while_something_reached_is_damaged(store: Store, grown: StackConfig) -> None:
    store.put_bytes(b"garbage", "t")
    store.blob_path(grown.layers[0].layer).write_bytes(b"{}")
    before = sorted((store.root / "blobs" / "sha256").iterdir())
    with pytest.raises(StackError, match="is damaged"):
        collect_garbage(store, grace_s=0)
    assert sorted((store.root / "blobs" / "sha256").iterdir()) == before


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seed=st.integers(0, 10_000))
def test_every_ref_loads_after_any_history(tmp_path_factory, bare, bake, seed: int) -> None:
    store, chance = Store.create(tmp_path_factory.mktemp("any")), random.Random(seed)
    set_ref(store, "main", write_stack(store, bare), why="init")
    for step in range(8):
        name = chance.choice(["main", "one", "two"])
        stack = read_stack(store, list_refs(store).get(name, stack_digest(bare)))
        if stack.layers and chance.random() < 0.3:
            stack = drop_layer(store, stack, chance.choice(stack.layers).name)
        else:
            stack = add_layer(store, stack, bake(f"l{step}", stack, into=store))
        set_ref(store, name, write_stack(store, stack), why=f"step {step}")
        if name != "main" and chance.random() < 0.2:
            delete_ref(store, name)
    forget = chance.random() < 0.5
    held = {digest for name in list_refs(store) for move in history(store, name) for digest in (move.old, move.new)}
    collect_garbage(store, forget_history=forget, grace_s=0)
    assert check_store(store) == []
    kept = set(list_refs(store).values()) if forget else held - {""}
    assert set(list_stacks(store)) >= kept
    for digest in kept:
        for entry in read_stack(store, digest).layers:
            assert store.has(read_layer(store, entry.layer).weights)
    assert find_garbage(store, forget_history=forget, grace_s=0).files == ()
