from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lamina.errors import StackError
from lamina.refs import Digest
from lamina.stack.layers import (
    list_layers,
    list_stacks,
    read_layer,
    read_stack,
    stack_digest,
    write_layer,
    write_stack,
)
from lamina.stack.manifest import BasePin, StackConfig, StackEntry
from lamina.stack.order import add_layer, check_parents, drop_layer
from lamina.stack.store import Store


def test_a_layer_comes_back_as_it_was_written(store: Store, bake) -> None:
    digest = bake("a")
    layer = read_layer(store, digest)
    assert (layer.name, layer.data[0].rows, layer.cost.trained_tokens) == ("a", 2, 7)
    assert write_layer(store, layer) == digest
    assert list_layers(store) == [(digest, layer)]


def test_a_stack_is_listed_once_and_its_digest_is_foretold(store: Store, bare: StackConfig, bake) -> None:
    stack = add_layer(store, bare, bake("a"), 0.5)
    assert write_stack(store, stack) == write_stack(store, stack) == stack_digest(stack)
    assert read_stack(store, stack_digest(stack)) == stack
    assert list_stacks(store) == [stack_digest(stack)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(scales=st.lists(st.floats(-4, 4), max_size=4))
def test_add_then_drop_restores_the_identical_digest(store, bare, bake, scales) -> None:
    stack = bare
    for index, scale in enumerate(scales):
        stack = add_layer(store, stack, bake(f"l{index}", stack), scale)
    top = bake("top", stack)
    assert stack_digest(drop_layer(store, add_layer(store, stack, top, 0.5), "top")) == stack_digest(stack)


def test_order_scale_and_base_change_the_digest(store: Store, bare: StackConfig, bake) -> None:
    a, b = bake("a"), bake("b")
    stacks = [
        bare,
        bare.model_copy(update={"base": bare.base.model_copy(update={"digest": str(Digest.of_bytes(b"x"))})}),
        add_layer(store, add_layer(store, bare, a), b),
        add_layer(store, add_layer(store, bare, b), a),
        add_layer(store, add_layer(store, bare, a), b, 0.5),
    ]
    assert len({stack_digest(stack) for stack in stacks}) == len(stacks)


def test_drop_takes_a_name_a_digest_or_its_beginning(store: Store, bare: StackConfig, bake) -> None:
    a, b = bake("a"), bake("b")
    stack = add_layer(store, add_layer(store, bare, a), b)
    for spelling in ("b", b, b[7:], b[7:19]):
        assert [entry.layer for entry in drop_layer(store, stack, spelling).layers] == [a]
    with pytest.raises(StackError, match="no layer 'c'") as caught:
        drop_layer(store, stack, "c")
    assert caught.value.hint == "its layers are: a, b"


def test_drop_refuses_digits_that_fit_several(store: Store, bare: StackConfig) -> None:
    twins = tuple(StackEntry(layer="sha256:" + "ab12" + digit * 60, name=digit) for digit in "cd")
    with pytest.raises(StackError, match="'ab12' is short for 2 layers"):
        drop_layer(store, bare.model_copy(update={"layers": twins}), "ab12")


def test_law_7_a_layer_on_another_parent_is_refused(store: Store, bare: StackConfig, pin: BasePin, bake) -> None:
    on_a = add_layer(store, bare, bake("a"))
    b = bake("b", on_a)
    check_parents(store, add_layer(store, on_a, b), pin)
    with pytest.raises(StackError) as caught:
        check_parents(store, add_layer(store, bare, b), pin)
    assert caught.value.message == (
        f"layer 'b' was trained on stack {stack_digest(on_a)[7:19]}, below it here is base ({stack_digest(bare)[7:19]})"
    )
    assert "--force" in caught.value.hint
    with pytest.raises(StackError, match=r"below it here is base\+a:0\.5"):
        check_parents(store, add_layer(store, add_layer(store, bare, on_a.layers[0].layer, 0.5), b), pin)


def test_law_7_another_base_is_refused(store: Store, bare: StackConfig, pin: BasePin, bake) -> None:
    other = pin.model_copy(update={"name": "other", "digest": str(Digest.of_bytes(b"other"))})
    with pytest.raises(StackError, match=r"the stack is on base tiny .* this is other"):
        check_parents(store, bare, other)
    with pytest.raises(StackError, match=r"layer 'a' was trained on base tiny .* this is other") as caught:
        check_parents(store, add_layer(store, bare, bake("a")), other)
    assert "--force" in caught.value.hint
    with pytest.raises(StackError, match=r"the stack is on base other .* this is tiny"):
        check_parents(store, add_layer(store, bare, bake("a")).model_copy(update={"base": other}), pin)


def test_law_7_the_same_base_under_another_name_is_the_same_base(store, bare, pin, bake) -> None:
    moved = pin.model_copy(update={"name": "moved", "source": "/elsewhere"})
    a = bake("a")
    b = bake("b", add_layer(store, bare, a))
    check_parents(store, StackConfig(base=moved, layers=add_layer(store, add_layer(store, bare, a), b).layers), moved)


def test_a_layer_is_no_stack(store: Store, bake) -> None:
    layer = bake("a")
    with pytest.raises(StackError, match=f"{layer[7:19]} is a layer, not a stack"):
        read_stack(store, layer)


def _store_changed(store: Store, digest: str, **changes: object) -> str:
    """Write the layer or stack again with ``changes`` in its configuration and return the new digest."""
    content = json.loads(store.read_bytes(digest)) | changes
    return store.put_bytes(json.dumps(content).encode(), "t").digest


def test_a_newer_format_says_upgrade(store: Store, bake) -> None:
    digest = _store_changed(store, bake("a"), format=2, novelty=1)
    with pytest.raises(StackError, match=f"layer {digest[7:19]} cannot be read") as caught:
        read_layer(store, digest)
    assert "upgrade lamina" in caught.value.hint


def test_a_damaged_configuration_says_pull(store: Store, bake) -> None:
    digest = _store_changed(store, bake("a"), rank="four")
    with pytest.raises(StackError, match="cannot be read") as caught:
        read_layer(store, digest)
    assert "pull or train" in caught.value.hint
    junk = store.put_bytes(b"\xff not json", "t").digest
    with pytest.raises(StackError, match="cannot be read"):
        read_stack(store, junk)


def test_a_layer_needs_its_blobs(store: Store, bake) -> None:
    layer = read_layer(store, bake("a"))
    store.blob_path(layer.weights).unlink()
    with pytest.raises(StackError, match=f"blob {layer.weights[:19]} is missing"):
        write_layer(store, layer)


def test_records_are_strict_and_frozen(pin: BasePin) -> None:
    with pytest.raises(ValidationError):
        StackEntry(layer="x", name="y", scale="1.0")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        StackEntry(layer="x", name="y", scale=float("nan"))
    with pytest.raises(ValidationError):
        StackEntry(layer="x", name="y", mood="z")  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        pin.name = "other"  # type: ignore[misc]


def test_a_scale_must_be_finite(store: Store, bare: StackConfig, bake) -> None:
    with pytest.raises(StackError, match="scale nan"):
        add_layer(store, bare, bake("a"), float("nan"))
