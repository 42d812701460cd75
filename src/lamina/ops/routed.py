"""``lamina route``: a router is trained, and the sum of all layers set against the routed ones on every suite."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.evaluate.gate import LEVEL, is_kept
from lamina.evaluate.statistics.intervals import interval
from lamina.evaluate.statistics.loss import change_interval, upper_loss
from lamina.evaluate.statistics.paired import better_p, pair
from lamina.evaluate.suites import Suite
from lamina.ops.evaluate import find_suites, score_stack
from lamina.ops.project import Project
from lamina.ops.route import select
from lamina.ops.router import SUM, TrainedRouter, points_of, train_router
from lamina.records import Score
from lamina.route.keep import Decision, read_decision, write_decision
from lamina.route.router import Router
from lamina.stack.manifest import StackConfig

__all__ = ["Routed", "RoutedSuite", "judge_routing", "route"]


# Routing reads every prompt twice; what it gains must be worth that.
_LEAST_GAIN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedSuite:
    """What routing does to a suite.

    Attributes:
        suite: its name.
        items: how many both could score.
        whole: the score of the sum of all layers, with its 95 % interval.
        routed: the score of the routed layers, likewise.
        change: a 95 % interval of the difference.
        p_value: of "routing is better", for this suite alone.
        better: whether it is by a point or more, with all suites that routing can change tested at once.
        kept: whether a loss of the suite's margin is ruled out.
        loss_bound: the largest loss not ruled out at one-sided 95 %.
        goes_to: how many items go to which skill; ``(sum)`` is no skill.
    """

    suite: str
    items: int
    whole: tuple[float, float, float]
    routed: tuple[float, float, float]
    change: tuple[float, float]
    p_value: float
    better: bool
    kept: bool
    loss_bound: float
    goes_to: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """A trained router, what it does to every suite, and the verdict."""

    trained: TrainedRouter
    suites: tuple[RoutedSuite, ...]
    helps: bool
    verdict: str
    enabled: bool


def route(project: Project) -> Routed:
    """Train a router for the current branch, try it on every suite of ``lamina.toml``, and record the verdict.

    Held-out rows have chosen the layers and the limits; they judge nothing. A branch that had enabled routing keeps it
    only if the new router helps.

    Raises:
        StackError: if fewer than two skills have rows here.
    """
    stack = project.stack()
    trained = train_router(project, stack)
    written = [suite for name, suite in find_suites(project).items() if name in project.settings.suites]
    suites = judge_routing([_try(project, stack, trained.router, suite) for suite in written])
    helps, verdict = _conclude(suites)
    before = read_decision(project.store, project.branch)
    enabled = before is not None and before.enabled and helps
    decision = Decision(router=trained.digest, enabled=enabled, helps=helps, verdict=verdict)
    write_decision(project.store, project.branch, decision)
    return Routed(trained=trained, suites=suites, helps=helps, verdict=verdict, enabled=enabled)


def judge_routing(suites: Sequence[RoutedSuite]) -> tuple[RoutedSuite, ...]:
    """Return the suites with ``better`` set by Holm's procedure at 5 % over those that routing can change.

    A gain of less than a point counts for nothing, however certain.

    Source: Holm 1979, Scandinavian Journal of Statistics 6:65.
    """
    touched = sorted((suite for suite in suites if _is_touched(suite)), key=lambda suite: suite.p_value)
    better: set[str] = set()
    for rank, suite in enumerate(touched):
        if suite.p_value > LEVEL / (len(touched) - rank):
            break
        if suite.routed[0] - suite.whole[0] >= _LEAST_GAIN:
            better.add(suite.suite)
    return tuple(dataclasses.replace(suite, better=suite.suite in better) for suite in suites)


def _conclude(suites: Sequence[RoutedSuite]) -> tuple[bool, str]:
    """Return whether routing should be used, and why: a gain is shown somewhere, a loss ruled out everywhere else."""
    better = [suite for suite in suites if suite.better]
    doubtful = [suite for suite in suites if not suite.better and not suite.kept]
    if not suites:
        return False, "no suite in lamina.toml can judge it: the sum of all layers stays the default"
    if not better:
        return False, "no suite is shown to be better with routing: the sum of all layers stays the default"
    gains = ", ".join(
        f"{suite.suite} by {100 * suite.change[0]:.1f} to {100 * suite.change[1]:.1f} points" for suite in better
    )
    if doubtful:
        losses = ", ".join(f"{suite.suite} (up to {100 * suite.loss_bound:.1f} points)" for suite in doubtful)
        return False, f"routing helps on {gains}, but may lose on {losses}: the sum of all layers stays the default"
    return True, f"routing helps on {gains}: use it"


def _is_touched(suite: RoutedSuite) -> bool:
    return set(suite.goes_to) != {SUM}


def _try(project: Project, stack: StackConfig, router: Router, suite: Suite) -> RoutedSuite:
    whole = score_stack(project, stack, suite)
    values = list(whole.values)
    groups: dict[tuple[str, ...], list[int]] = {}
    every = tuple(entry.layer for entry in stack.layers)
    goes_to: Counter[str] = Counter()
    for place, (name, layers) in enumerate(_routes(project, router, suite, every)):
        goes_to[name] += 1
        if layers != every and not math.isnan(values[place]):
            groups.setdefault(layers, []).append(place)
    for layers, places in groups.items():
        chosen = select(project.store, stack, [entry for entry in stack.layers if entry.layer in layers])
        for place, value in zip(places, _values(project, chosen, suite, places), strict=True):
            values[place] = value
    return _compare(project, whole, values, goes_to, touched=bool(groups))


def _routes(
    project: Project, router: Router, suite: Suite, every: tuple[str, ...]
) -> list[tuple[str, tuple[str, ...]]]:
    """Return for each item the skill it goes to and the layers; items that ask nothing go to the sum."""
    asking = [place for place, item in enumerate(suite.items) if item.prompt]
    shots = [turn for shot in suite.shots for turn in shot.solved()]
    found = [(SUM, every)] * len(suite.items)
    if asking:
        points = points_of(project, [(*shots, *suite.items[place].prompt) for place in asking])
        for place, route in zip(asking, router.routes(points), strict=True):
            if route.skill is not None:
                found[place] = (route.skill.name, route.skill.layers)
    return found


def _values(project: Project, stack: StackConfig, suite: Suite, places: Sequence[int]) -> Sequence[float]:
    # What counts as a label follows from all items of a suite, so some of them are another suite.
    if suite.scorer == "label":
        score = score_stack(project, stack, suite)
        return [score.values[place] for place in places]
    part = dataclasses.replace(suite, items=tuple(suite.items[place] for place in places))
    return score_stack(project, stack, part).values


def _compare(
    project: Project, whole: Score, values: Sequence[float], goes_to: Counter[str], *, touched: bool
) -> RoutedSuite:
    scored = [place for place, value in enumerate(values) if not math.isnan(value)]
    clusters = whole.clusters
    paired = pair(whole.values, values, clusters)
    own = project.settings.suites[whole.suite].margin
    margin = project.settings.margin if own is None else own
    return RoutedSuite(
        suite=whole.suite,
        items=paired.n,
        whole=(whole.mean, whole.low, whole.high),
        routed=interval([values[place] for place in scored], [clusters[place] for place in scored] if clusters else ()),
        # What the whole stack answers either way is the same by construction, not by chance.
        change=change_interval(paired) if touched else (0.0, 0.0),
        p_value=better_p(paired) if touched else 1.0,
        better=False,
        kept=is_kept(paired, margin) if touched else True,
        loss_bound=upper_loss(paired) if touched else 0.0,
        goes_to=dict(goes_to),
    )
