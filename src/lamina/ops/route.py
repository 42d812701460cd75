"""Whether requests go through a branch's router, and which layers it gives them. No model is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lamina.errors import StackError
from lamina.route.keep import Decision, read_decision, read_router, write_decision
from lamina.route.router import READ_TOKENS, Route, Router
from lamina.serve.routing import PromptRouter, Routing
from lamina.serve.stacks import ServedStack
from lamina.stack.layers import read_stack, stack_digest
from lamina.stack.lineage import get_current
from lamina.stack.manifest import StackConfig, StackEntry
from lamina.stack.order import mark_moved
from lamina.stack.store import Store

__all__ = ["decide_routing", "enabled_router", "is_stale", "make_routing", "routed_stack", "select"]

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


def select(store: Store, stack: StackConfig, entries: Sequence[StackEntry]) -> StackConfig:
    """Return the stack of some of the entries of ``stack``; what does not lie on its parent any more says so."""
    if tuple(entries) == stack.layers:
        return stack
    return mark_moved(store, stack.model_copy(update={"layers": tuple(entries)}))


def routed_stack(store: Store, stack: StackConfig, route: Route) -> StackConfig:
    """Return the stack of those layers of ``stack`` that answer a prompt; all of them if it is like no skill."""
    if route.skill is None:
        return stack
    return select(store, stack, [entry for entry in stack.layers if entry.layer in route.skill.layers])


def make_routing(store: Store) -> Routing:
    """Return what finds the routers of a server's stacks.

    Only a branch's own name has one: whoever spells out a stack gets that stack. What is decided, trained or made stale
    while the server runs counts from the next request on.
    """

    def find(asked: ServedStack) -> PromptRouter | None:
        if not asked.is_branch:
            return None
        stack = read_stack(store, asked.digest)
        router = enabled_router(store, asked.name, stack)
        if router is None:
            return None

        def pick(point: Sequence[float]) -> ServedStack:
            (route,) = router.routes(np.array([point]))
            chosen = routed_stack(store, stack, route)
            return replace(
                asked,
                digest=stack_digest(chosen),
                layers=tuple((entry.layer, entry.scale) for entry in chosen.layers),
                names=tuple(entry.name for entry in chosen.layers),
            )

        return PromptRouter(reads=READ_TOKENS, pick=pick)

    return find
