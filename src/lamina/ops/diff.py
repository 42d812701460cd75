"""``lamina diff`` of two stacks: what the store knows, without loading a model."""

from __future__ import annotations

from pathlib import Path

from lamina.errors import StackError, UsageError
from lamina.refs import BASE, StackExpression
from lamina.stack.difference import StackDifference, diff_stacks
from lamina.stack.layers import has_prefix, list_stacks
from lamina.stack.lineage import get_head, history, list_refs
from lamina.stack.resolve import resolve_here
from lamina.stack.store import Store

__all__ = ["compare_stacks", "names_a_stack"]


def names_a_stack(start: Path, text: str) -> bool:
    """Return whether ``text`` means a stack rather than a single layer: a ref, a stack's digest, or a sum of layers.

    Raises:
        StackError: if there is no project.
        UsageError: if it cannot be read as either.
    """
    store = Store.find(start)
    expression = StackExpression.parse(text)
    if (
        expression.terms
        or expression.back
        or expression.at
        or expression.root == BASE
        or expression.root in list_refs(store)
    ):
        return True
    return any(has_prefix(digest, expression.root) for digest in list_stacks(store))


def compare_stacks(start: Path, old: str | None, new: str | None = None) -> tuple[str, str, StackDifference]:
    """Return the names of two stacks and what turns the first into the second.

    With one name, or none for the current branch, a branch is compared with what it held before its last move.

    Raises:
        StackError: if a stack does not exist, or the branch has held nothing else yet.
        UsageError: if one name is given that is not a branch.
    """
    store = Store.find(start)
    branch = get_head(store)
    if new is None:
        new = old or branch
        old = f"{new}~1"
        _check_has_past(store, new)
    names = old or branch, new
    return *names, diff_stacks(resolve_here(store, names[0]), resolve_here(store, names[1]))


def _check_has_past(store: Store, name: str) -> None:
    if name not in list_refs(store):
        raise UsageError(
            f"'{name}' is not a branch, so nothing came before it", hint=f"name two stacks: lamina diff main {name}"
        )
    if len(history(store, name)) < 2:
        raise StackError(f"branch '{name}' has held one stack only", hint=f"name two stacks: lamina diff base {name}")
