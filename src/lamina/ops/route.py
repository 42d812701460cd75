"""``lamina route --enable`` and ``--disable``: whether requests go through a branch's router. No model is needed."""

from __future__ import annotations

from pathlib import Path

from lamina.errors import StackError
from lamina.route.keep import Decision, read_decision, read_router, write_decision
from lamina.route.router import Router
from lamina.stack.layers import read_stack, stack_digest
from lamina.stack.lineage import get_current
from lamina.stack.manifest import StackConfig
from lamina.stack.store import Store

__all__ = ["decide_routing", "enabled_router", "is_stale"]

_TRAIN = "train it again: `lamina route`"


def decide_routing(start: Path, *, enabled: bool) -> tuple[str, Decision]:
    """Record whether the current branch's requests go through its router; return the branch and what it decided.

    Raises:
        StackError: if the branch has no router, or one for another stack is to be enabled.
    """
    store = Store.find(start)
    branch, held = get_current(store)
    decision = read_decision(store, branch)
    if decision is None:
        raise StackError(f"branch '{branch}' has no router", hint="train one: `lamina route`")
    if enabled and is_stale(read_router(store, decision.router), read_stack(store, held)):
        raise StackError(f"the router of branch '{branch}' was trained for another stack than it holds", hint=_TRAIN)
    decided = decision.model_copy(update={"enabled": enabled})
    write_decision(store, branch, decided)
    return branch, decided


def enabled_router(store: Store, branch: str, stack: StackConfig) -> Router | None:
    """Return the router through which requests to ``stack`` go.

    None if ``branch`` has enabled none, or the one it has was trained for another stack or base: what is stale must not
    choose, and the sum of all layers is always an answer.

    Raises:
        StackError: if it is missing or damaged.
    """
    decision = read_decision(store, branch)
    if decision is None or not decision.enabled:
        return None
    router = read_router(store, decision.router)
    return None if is_stale(router, stack) else router


def is_stale(router: Router, stack: StackConfig) -> bool:
    """Return whether ``router`` was trained for another base or stack than this one."""
    return (router.record.base, router.record.stack) != (stack.base.digest, stack_digest(stack))
