"""How a layer gets into a branch, however it was made: put on top, judged by the gate, let in or kept out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.evaluate.gate import Verdict, decide
from lamina.ops.evaluate import own_and_guards, score_stack
from lamina.ops.project import Project
from lamina.stack.layers import read_layer, write_stack
from lamina.stack.lineage import get_ref, set_ref
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.order import add_layer, mark_moved

__all__ = ["Admission", "Place", "admit", "find_place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a new layer is to go, and what will decide.

    Attributes:
        branch: the branch.
        digest: the stack that the branch held when the work began; it must still hold it at the end.
        stack: the same, read.
        own: suites that the layer must improve.
        guards: suites that it must not harm.
    """

    branch: str
    digest: str | None
    stack: StackConfig
    own: tuple[str, ...]
    guards: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What became of a new layer. ``stack`` holds it even when the gate kept it out of the branch."""

    name: str
    layer: str
    stack: StackConfig
    branch: str
    accepted: bool
    verdict: Verdict | None
    config: LayerConfig


def find_place(project: Project, skill: str, guards: Sequence[str]) -> Place:
    """Return the place on top of the current branch; ask before the work, so that a wrong guard costs nothing.

    Args:
        project: the open project.
        skill: the suite that the layer should improve, if there is one of that name.
        guards: suites that must not get worse, besides those marked ``guard`` in the settings.

    Raises:
        UsageError: if a guard is no suite.
    """
    own, guarded = own_and_guards(project, skill, guards)
    branch = project.branch
    digest = get_ref(project.store, branch)
    return Place(branch=branch, digest=digest, stack=project.stack(branch), own=tuple(own), guards=tuple(guarded))


def admit(
    project: Project, layer: str, place: Place, *, why: str, accept: bool, below: StackConfig | None = None
) -> Admission:
    """Put a written layer on top of ``place`` and move the branch if the gate lets it in.

    Args:
        project: the open project.
        layer: the layer's digest. Where its parent is not the stack below, its entry is marked as moved.
        place: where.
        why: what the branch's log says of the move.
        accept: let the layer in whatever the gate says; the branch's log records it.
        below: what the layer goes onto, where it stands in for layers of the branch; None means all of the branch.

    Raises:
        StackError: if the branch moved meanwhile.
    """
    store, below = project.store, below or place.stack
    stack = mark_moved(store, add_layer(store, below, layer), start=len(below.layers))
    digest = write_stack(store, stack)
    verdict = _judge(project, place, stack)
    passed = verdict is None or verdict.accepted
    if passed or accept:
        noted = why if passed else f"{why}, accepted against the gate"
        set_ref(store, place.branch, digest, why=noted, expect=place.digest)
    config = read_layer(store, layer)
    return Admission(
        name=config.name,
        layer=layer,
        stack=stack,
        branch=place.branch,
        accepted=passed or accept,
        verdict=verdict,
        config=config,
    )


def _judge(project: Project, place: Place, stack: StackConfig) -> Verdict | None:
    suites = (*place.own, *place.guards)
    if not suites:
        return None
    before = {name: score_stack(project, place.stack, name) for name in suites}
    after = {name: score_stack(project, stack, name) for name in suites}
    return decide(before, after, own=place.own, guards=place.guards, margin=project.settings.margin)
