"""After `lamina forget`: to see that rows are gone, and to clear the past that still holds them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.data.identity import row_identity
from lamina.errors import UsageError
from lamina.evaluate.suites import Suite
from lamina.ops.evaluate import find_suites, score_stack
from lamina.ops.forget import Forgotten, Wish
from lamina.ops.membership import Membership, measure_membership
from lamina.ops.project import Project
from lamina.ops.rows import stored_rows
from lamina.ops.traces import Holders, find_holders
from lamina.records import Conversation, Score
from lamina.refs import Digest
from lamina.stack.layers import list_stacks, read_layer
from lamina.stack.reach import collect_garbage

__all__ = ["Checked", "check", "purge", "require_suites"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Whether rows are gone: how base, old and new stack find them, and what the old and new stack score on suites."""

    membership: tuple[Membership, ...]
    scores: tuple[tuple[Score, Score], ...]


def require_suites(project: Project, names: Sequence[str]) -> list[Suite]:
    """Return the suites of these names; to be asked before the work.

    Raises:
        UsageError: if one is unknown.
    """
    known = find_suites(project) if names else {}
    if unknown := [name for name in names if name not in known]:
        hint = f"known: {', '.join(known)}" if known else "add [suites.NAME] to lamina.toml"
        raise UsageError(f"--suite {unknown[0]}: no such suite", hint=hint)
    return [known[name] for name in names]


def check(project: Project, wish: Wish, result: Forgotten, suites: Sequence[Suite] = ()) -> Checked:
    """Return how the base, the old stack and the new one find the rows, and what the two score on suites."""
    stacks = [("base", result.before.prefix(0)), ("before", result.before), ("now", result.after)]
    membership = measure_membership(project, stacks, wish.texts, _never_trained(project, wish, result))
    scores = [
        (score_stack(project, result.before, suite, "before"), score_stack(project, result.after, suite, "now"))
        for suite in suites
    ]
    return Checked(membership=tuple(membership), scores=tuple(scores))


def purge(project: Project, wish: Wish) -> Holders:
    """Cut the past of every ref, remove what no ref reaches then, and return what still holds the rows.

    Branches and tags stay where they are: they are someone's work.
    """
    with project.working("forget"):
        collect_garbage(project.store, forget_history=True, grace_s=0.0)
        kept = {Digest.parse(digest).hex for digest in list_stacks(project.store)} | {"judge"}
        results = project.store.root / "results"
        for folder in results.iterdir() if results.exists() else ():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
    return find_holders(project.store, wish.rows, wish.whole)


def _never_trained(project: Project, wish: Wish, result: Forgotten) -> list[Conversation]:
    """Return held-out rows of the layers that had the rows: neither stack was trained on them."""
    layers = [read_layer(project.store, step.entry.layer) for step in result.steps if step.trace]
    rows = [row for layer in layers for row in stored_rows(project.store, layer.heldout)]
    return [row for row in rows if row_identity(row) not in wish.rows]
