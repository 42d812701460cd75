"""``lamina fsck`` and ``lamina gc``: the store looked through and cleared out."""

from __future__ import annotations

from pathlib import Path

from lamina.records import Progress
from lamina.stack.fsck import Finding, check_store, store_size
from lamina.stack.reach import Garbage, collect_garbage, find_garbage
from lamina.stack.store import Store

__all__ = ["fsck", "gc"]


def fsck(start: Path, progress: Progress) -> list[Finding]:
    """Recompute every digest, mend refs and index, and return what was wrong.

    Raises:
        StackError: if there is no project.
    """
    store = Store.find(start)
    with progress.stage("check", total=store_size(store), unit="B") as tick:
        return check_store(store, tick)


def gc(start: Path, *, remove: bool, forget_history: bool) -> Garbage:
    """Return what no branch or tag reaches, and remove it if asked to.

    Raises:
        BusyError: if it is to remove while another lamina is at work: what that has made, nothing reaches yet.
        StackError: if there is no project, or something that a ref reaches is damaged.
    """
    store = Store.find(start)
    if not remove:
        return find_garbage(store, forget_history=forget_history)
    with store.claim("gc"):
        return collect_garbage(store, forget_history=forget_history)
