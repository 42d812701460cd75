"""What turns one stack into another, and nothing more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.refs import Digest
from lamina.stack.difference import diff_stacks
from lamina.stack.manifest import BasePin, StackConfig, StackEntry


def digest(text: str) -> str:
    return str(Digest.of_bytes(text.encode()))


PIN = BasePin(
    name="tiny",
    digest=digest("base"),
    family="llama",
    template_digest=digest("t"),
    tokenizer_digest=digest("k"),
    source="./tiny",
)
stacks = st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from([1.0, 0.5])), max_size=8)


def stack(layers: list[tuple[str, float]], base: BasePin = PIN) -> StackConfig:
    entries = tuple(StackEntry(layer=digest(name), name=name, scale=scale) for name, scale in layers)
    return StackConfig(base=base, layers=entries)


def of(*names: str) -> StackConfig:
    return stack([(name, 1.0) for name in names])


def test_each_kind_of_difference() -> None:
    found = diff_stacks(of("a", "b", "c", "d"), stack([("a", 1.0), ("d", 0.5), ("b", 1.0), ("e", 1.0)]))
    assert [entry.name for entry in found.removed] == ["c"]
    assert [entry.name for entry in found.added] == ["e"]
    assert [(each.entry.name, each.old, each.new) for each in found.rescaled] == [("d", 1.0, 0.5)]
    assert [(each.entry.name, each.old, each.new) for each in found.moved] in (
        [("d", 4, 2)],
        [("b", 2, 3)],
    )
    assert not found.is_empty


@pytest.mark.parametrize(("new", "moved"), [("bcda", {"a"}), ("dabc", {"d"}), ("abcd", set())])
def test_as_few_as_can_be_have_moved(new: str, moved: set[str]) -> None:
    assert {each.entry.name for each in diff_stacks(of(*"abcd"), of(*new)).moved} == moved


def test_another_base_is_a_difference() -> None:
    other = PIN.model_copy(update={"digest": digest("other")})
    assert diff_stacks(of("a"), stack([("a", 1.0)], other)).bases == (PIN, other)


@given(stacks)
def test_a_stack_does_not_differ_from_itself(layers: list[tuple[str, float]]) -> None:
    assert diff_stacks(stack(layers), stack(layers)).is_empty


@given(stacks, stacks)
def test_what_is_added_one_way_is_removed_the_other(a: list[tuple[str, float]], b: list[tuple[str, float]]) -> None:
    there, back = diff_stacks(stack(a), stack(b)), diff_stacks(stack(b), stack(a))
    assert sorted(entry.name for entry in there.added) == sorted(entry.name for entry in back.removed)
    assert len(there.moved) == len(back.moved)
    assert len(a) - len(there.removed) + len(there.added) == len(b)
    assert there.is_empty == (a == b)
