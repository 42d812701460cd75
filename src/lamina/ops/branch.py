"""Branches, which commands move, and tags, which stay: made, listed, deleted, switched to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lamina.errors import StackError
from lamina.refs import check_name
from lamina.stack.layers import name_of, read_stack, write_stack
from lamina.stack.lineage import (
    ANY,
    delete_ref,
    get_head,
    get_ref,
    list_refs,
    list_tags,
    set_head,
    set_ref,
)
from lamina.stack.resolve import resolve_here
from lamina.stack.store import Store

__all__ = ["Ref", "create_ref", "delete", "refs", "switch"]


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or tag, the stack it holds, and whether it is the current branch."""

    name: str
    digest: str
    stack: str
    tag: bool
    current: bool


def refs(start: Path) -> list[Ref]:
    """Return every branch and tag, sorted by name."""
    store = Store.find(start)
    head, tags = get_head(store), list_tags(store)
    return [
        Ref(name, digest, name_of(read_stack(store, digest)), name in tags, name == head)
        for name, digest in sorted(list_refs(store).items())
    ]


def create_ref(start: Path, name: str, expression: str | None, *, tag: bool = False, force: bool = False) -> str:
    """Make a branch or a tag at a stack (None: the current branch's) and return the stack's name.

    Args:
        start: a folder of the project.
        name: the new ref.
        expression: the stack.
        tag: whether the ref never moves.
        force: move a branch that is there already.

    Raises:
        UsageError: if ``name`` cannot name a ref.
        StackError: if the ref is there already, or the stack is not.
    """
    store = Store.find(start)
    what = "tag" if tag else "branch"
    check_name(name, what=what)
    stack = resolve_here(store, expression)
    if get_ref(store, name) is not None and not force:
        kind = "tag" if name in list_tags(store) else "branch"
        raise StackError(
            f"there is a {kind} '{name}' already", hint=f"choose another name, or `lamina {kind} --delete`"
        )
    why = f"{what} from {expression or get_head(store)}"
    set_ref(store, name, write_stack(store, stack), why=why, expect=ANY if force else None, tag=tag)
    return name_of(stack)


def delete(start: Path, name: str, *, tag: bool) -> str:
    """Forget a branch or tag and return the digest of the stack that it held.

    Raises:
        StackError: if there is no such branch or tag, or it is the current branch.
    """
    store = Store.find(start)
    if name in list_refs(store) and (name in list_tags(store)) != tag:
        kind = "branch" if tag else "tag"
        raise StackError(f"'{name}' is a {kind}", hint=f"lamina {kind} --delete {name}")
    return delete_ref(store, name)


def switch(start: Path, name: str) -> str:
    """Make ``name`` the current branch and return the name of its stack.

    Raises:
        StackError: if there is no such branch.
    """
    store = Store.find(start)
    set_head(store, name)
    return name_of(read_stack(store, list_refs(store)[name]))
