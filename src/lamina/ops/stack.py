"""Changes to the current branch that need no model: drop, reorder, scale, undo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import StackError
from lamina.stack.layers import name_of, read_stack, write_stack
from lamina.stack.lineage import get_current, history, set_ref, undone_to
from lamina.stack.manifest import StackConfig
from lamina.stack.order import drop_layer, reorder, rescale_layer
from lamina.stack.store import Store

__all__ = ["Change", "drop", "reorder_layers", "scale", "undo"]


@dataclass(frozen=True, slots=True)
class Change:
    """A branch's move from one stack to another, and why."""

    branch: str
    before: StackConfig
    after: StackConfig
    why: str

    @property
    def moved(self) -> list[str]:
        """Names of the layers that lie on another stack than their parent only since this change."""
        already = {entry.layer for entry in self.before.layers if entry.moved}
        return [entry.name for entry in self.after.layers if entry.moved and entry.layer not in already]


def drop(start: Path, name: str) -> Change:
    """Take a layer out of the current branch.

    Raises:
        StackError: if the branch has no such layer.
    """
    return _change(start, lambda store, stack: drop_layer(store, stack, name), f"drop {name}")


def reorder_layers(start: Path, names: Sequence[str]) -> Change:
    """Put the current branch's layers into another order, bottom first. The sum, and so every answer, stays the same.

    Raises:
        UsageError: if ``names`` are not exactly the branch's layers.
    """
    return _change(start, lambda store, stack: reorder(store, stack, names), f"reorder {' '.join(names)}")


def scale(start: Path, name: str, factor: float) -> Change:
    """Weigh a layer of the current branch by ``factor``.

    Raises:
        StackError: if the branch has no such layer, or ``factor`` is not a finite number.
    """
    return _change(start, lambda store, stack: rescale_layer(store, stack, name, factor), f"scale {name} {factor:g}")


def undo(start: Path) -> Change:
    """Take back the current branch's last change that has not been taken back yet.

    Raises:
        StackError: if nothing came before, or what did has been garbage-collected.
    """
    store = Store.find(start)
    branch, held = get_current(store)
    move = undone_to(history(store, branch))
    if move is None:
        raise StackError(f"branch '{branch}' has nothing to undo", hint="`lamina log` shows how it came here")
    before, after = read_stack(store, held), read_stack(store, move.old)
    why = f"undo {move.why}"
    set_ref(store, branch, write_stack(store, after), why=why, expect=held, undo=True)
    return Change(branch, before, after, why)


def _change(start: Path, step: Callable[[Store, StackConfig], StackConfig], why: str) -> Change:
    store = Store.find(start)
    branch, held = get_current(store)
    before = read_stack(store, held)
    after = step(store, before)
    if after == before:
        raise StackError(f"{name_of(before)} is like that already", hint="nothing was changed")
    set_ref(store, branch, write_stack(store, after), why=why, expect=held)
    return Change(branch, before, after, why)
