"""How a change of the current branch is told, shared by ``drop``, ``reorder``, ``scale`` and ``undo``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lamina.cli.output import emit_json, say

if TYPE_CHECKING:
    from lamina.ops.stack import Change


def report(change: Change, *, as_json: bool) -> None:
    """Say from what to what the branch moved, and what no longer lies on its parent."""
    from lamina.stack.layers import name_of, stack_digest

    before, after = name_of(change.before), name_of(change.after)
    if as_json:
        digests = {"old": stack_digest(change.before), "new": stack_digest(change.after)}
        emit_json({"branch": change.branch, "before": before, "after": after, **digests, "moved": change.moved})
        return
    say(f"{change.branch}: {before} -> {after}")
    if change.moved:
        lies = "lies" if len(change.moved) == 1 else "lie"
        say(f"{', '.join(change.moved)} now {lies} on another stack than in training; `lamina eval` measures it")
