"""What lies on what: exact in weights, honest about parents."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lamina.errors import StackError, UsageError
from lamina.stack.layers import stack_digest, write_stack
from lamina.stack.manifest import BasePin, StackConfig
from lamina.stack.order import add_layer, check_parents, drop_layer, reorder, rescale_layer
from lamina.stack.store import Store

same_store = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture
def tower(store: Store, bare: StackConfig, bake) -> StackConfig:
    """Four layers, each trained on those below it."""
    stack = bare
    for name in "abcd":
        stack = add_layer(store, stack, bake(name, stack))
    write_stack(store, stack)
    return stack


def names(stack: StackConfig) -> str:
    return "".join(entry.name for entry in stack.layers)


def moved(stack: StackConfig) -> str:
    return "".join(entry.name for entry in stack.layers if entry.moved)


def test_what_lay_above_a_dropped_layer_is_marked_and_still_loads(store, tower, pin: BasePin) -> None:
    dropped = drop_layer(store, tower, "b")
    assert (names(dropped), moved(dropped)) == ("acd", "cd")
    check_parents(store, dropped, pin)
    assert moved(drop_layer(store, tower, "d")) == ""
    plain = tuple(entry.model_copy(update={"moved": False}) for entry in dropped.layers)
    unmarked = dropped.model_copy(update={"layers": plain})
    with pytest.raises(StackError, match="layer 'c' was trained on stack"):
        check_parents(store, unmarked, pin)


@same_store
@given(order=st.permutations("abcd"))
def test_moving_there_and_back_restores_the_identical_digest(store, tower, pin, order) -> None:
    there = reorder(store, tower, order)
    check_parents(store, there, pin)
    assert sorted(names(there)) == sorted("abcd")
    assert stack_digest(reorder(store, there, "abcd")) == stack_digest(tower)
    for place, entry in enumerate(there.layers):
        on_its_parent = names(there)[:place] == "abcd"[: "abcd".index(entry.name)]
        assert entry.moved == (not on_its_parent)


@same_store
@given(name=st.sampled_from("abcd"), factor=st.floats(-4, 4).filter(lambda factor: factor != 1))
def test_a_scale_taken_back_restores_the_identical_digest(store, tower, name, factor) -> None:
    scaled = rescale_layer(store, tower, name, factor)
    assert moved(scaled) == "abcd"["abcd".index(name) + 1 :]  # its own parent is as it was
    assert stack_digest(rescale_layer(store, scaled, name, 1.0)) == stack_digest(tower)


@pytest.mark.parametrize("order", ["abc", "abcc", "abcda"])
def test_an_order_names_each_layer_once(store, tower, order: str) -> None:
    with pytest.raises(UsageError, match="is not an order of the 4 layers") as caught:
        reorder(store, tower, order)
    assert caught.value.hint.endswith("a,b,c,d")


def test_a_name_that_fits_nothing_is_explained(store, tower) -> None:
    with pytest.raises(StackError, match="no layer 'x'"):
        reorder(store, tower, "abcx")
    with pytest.raises(StackError, match="no layer 'x'"):
        rescale_layer(store, tower, "x", 0.5)
    with pytest.raises(StackError, match="scale inf"):
        rescale_layer(store, tower, "a", float("inf"))
