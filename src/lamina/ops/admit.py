"""How a layer gets into a branch, however it was made: put on top, judged by the gate, let in or kept out."""

from __future__ import annotations

import dataclasses
import getpass
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.evaluate.gate import LEVEL, Verdict, decide
from lamina.evaluate.suites import Suite
from lamina.evaluate.watch import GuardWatch
from lamina.ops.evaluate import find_suites, own_and_guards, score_stack, watch_stack
from lamina.ops.project import Project
from lamina.ops.spending import spending
from lamina.ops.verdicts import find_verdict, question_key, remember
from lamina.records import Score
from lamina.stack.layers import read_layer, stack_digest, write_stack
from lamina.stack.lineage import OVERRULED, get_ref, set_ref
from lamina.stack.manifest import LayerConfig, StackConfig
from lamina.stack.order import add_layer, mark_moved

__all__ = ["Admission", "Attempt", "Place", "admit", "find_place"]


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
class Attempt:
    """One try to get a layer in: its remedy (empty: as it was made), what was done, and what the gate said of it.

    ``verdict`` is None where the remedy was not tried; ``done`` says why.
    """

    remedy: str
    done: str
    layer: str = ""
    scale: float = 1.0
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """What became of a new layer.

    Attributes:
        name, layer: its name and digest.
        stack: with the layer on top, even when the gate kept it out of the branch.
        branch: where it wanted to go.
        accepted: whether it is there.
        verdict: what the gate said, None if there was nothing to ask.
        config: the layer.
        attempts: where remedies were thought of, every one in order, the layer as it was made first.
    """

    name: str
    layer: str
    stack: StackConfig
    branch: str
    accepted: bool
    verdict: Verdict | None
    config: LayerConfig
    attempts: tuple[Attempt, ...] = ()


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
    project: Project,
    layer: str,
    place: Place,
    *,
    why: str,
    accept: bool,
    scale: float = 1.0,
    below: StackConfig | None = None,
    level: float = LEVEL,
    remedy: str = "",
) -> Admission:
    """Put a written layer on top of ``place`` and move the branch if the gate lets it in.

    Args:
        project: the open project.
        layer: the layer's digest. Where its parent is not the stack below, its entry is marked as moved.
        place: where.
        why: what the branch's log says of the move.
        accept: let the layer in whatever the gate says; the branch's log records it.
        scale: the layer's weight in the stack.
        below: what the layer goes onto, where it stands in for layers of the branch; None means all of the branch.
        level: the error rate of the gate's tests; smaller where several layers are tried on the same items.
        remedy: what was done to the layer after a refusal, for the record.

    Raises:
        StackError: if the branch moved meanwhile.
    """
    store, below = project.store, below or place.stack
    stack = mark_moved(store, add_layer(store, below, layer, scale), start=len(below.layers))
    digest = write_stack(store, stack)
    # Who lets it in whatever the gate says still wants to know all of what it says.
    question = _Question(layer=layer, stack=stack, scale=scale, level=level, remedy=remedy, whole=accept)
    verdict = _judge_once(project, place, question)
    passed = verdict is None or verdict.accepted
    if passed or accept:
        noted = why if passed or verdict is None else f"{why}, {OVERRULED} by {_user()}: {verdict.refusals}"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What the gate is asked: a layer on top of a stack, at a level; ``whole`` scores all suites whatever they say."""

    layer: str
    stack: StackConfig
    scale: float
    level: float
    remedy: str
    whole: bool


def _judge_once(project: Project, place: Place, asked: _Question) -> Verdict | None:
    """Return the verdict, remembered from an earlier run that asked the same; None if there is no suite to ask."""
    suites = find_suites(project, grown=asked.stack, stack=place.stack)
    # Held-out rows that the new layer answers anew, all of them, are no guard against it.
    place = dataclasses.replace(place, guards=tuple(name for name in place.guards if name in suites))
    names = (*place.own, *place.guards)
    if not names:
        return None
    margins = _margins(project, place)
    key = question_key(
        [stack_digest(place.stack), stack_digest(asked.stack)],
        [suites[name].digest for name in names],
        [margins.get(name) for name in names],
        [asked.level, asked.whole],
    )
    known = find_verdict(project.store, asked.layer, key)
    if known is not None:
        project.progress.note("the gate was asked this before; its verdict stands")
        return known
    with spending(project, "gate", read_layer(project.store, asked.layer).name, asked.stack):
        before = {name: score_stack(project, place.stack, suites[name]) for name in names}
        after, stopped = _score_until_harm(project, place, asked.stack, suites, before, whole=asked.whole)
    verdict = decide(
        before, after, own=place.own, guards=place.guards, margins=margins, stopped=stopped, level=asked.level
    )
    remember(
        project.store,
        asked.layer,
        key,
        verdict,
        branch=place.branch,
        scale=asked.scale,
        remedy=asked.remedy,
    )
    return verdict


def _margins(project: Project, place: Place) -> dict[str, float]:
    settings = project.settings
    margins = dict.fromkeys(place.guards, settings.margin)
    return margins | {
        name: own.margin for name, own in settings.suites.items() if name in margins and own.margin is not None
    }


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "an unknown user"


def _score_until_harm(
    project: Project,
    place: Place,
    stack: StackConfig,
    suites: Mapping[str, Suite],
    before: Mapping[str, Score],
    *,
    whole: bool,
) -> tuple[dict[str, Score], dict[str, GuardWatch]]:
    """Return the layer's scores up to the first guard that proves harm, and that guard's watch; all if ``whole``."""
    after = {name: score_stack(project, stack, suites[name]) for name in place.own}
    for name in place.guards:
        if whole:
            after[name] = score_stack(project, stack, suites[name])
            continue
        watch = GuardWatch(before[name])
        score = watch_stack(project, stack, suites[name], watch)
        if score is None:
            return after, {name: watch}
        after[name] = score
    return after, {}
