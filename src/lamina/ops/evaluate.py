"""``lamina eval``: stacks x suites, each pair scored once and remembered by digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

from lamina.config import SUITES_FOLDER
from lamina.data.identity import row_identity
from lamina.errors import UsageError
from lamina.evaluate.harness import HarnessTask, load_tasks, run_task
from lamina.evaluate.overlap import Overlap, find_overlap
from lamina.evaluate.run import run_suite, watch_suite
from lamina.evaluate.suites import Suite, load_suite, suite_of_rows
from lamina.evaluate.watch import GuardWatch
from lamina.model.base import LoadedBase
from lamina.ops.asking import judge_name, suite_judge
from lamina.ops.project import Project
from lamina.ops.results import read_score, write_score
from lamina.ops.rows import known_rows, stored_rows, superseded
from lamina.ops.spending import spending
from lamina.records import Matrix, Score, Tick
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig
from lamina.stack.order import skill_of

__all__ = [
    "evaluate",
    "evaluate_tasks",
    "find_suites",
    "overlaps",
    "own_and_guards",
    "prefixes",
    "score_stack",
    "watch_stack",
]

_Found = TypeVar("_Found", Score, Score | None)


def evaluate(project: Project, stacks: Sequence[tuple[str, StackConfig]], suites: Sequence[str] = ()) -> Matrix:
    """Return the scores of every stack on every suite (all of the project's when none is named).

    Raises:
        UsageError: if a suite is unknown, or the project has none.
        DataError: if a suite's file is wrong.
    """
    every = find_suites(project)
    chosen = tuple(suites) or tuple(every)
    unknown = [name for name in chosen if name not in every]
    if unknown or not chosen:
        what = f"unknown suite '{unknown[0]}'" if unknown else "no suites yet"
        hint = f"known: {', '.join(every)}" if every else "train a layer, or add [suites.NAME] to lamina.toml"
        raise UsageError(what, hint=hint)
    for name in chosen:
        _note_items(project, every[name])
    rows = []
    for label, stack in stacks:
        with spending(project, "score", stack.layers[-1].name if stack.layers else "", stack):
            rows.append(tuple(score_stack(project, stack, every[name], label) for name in chosen))
    return Matrix(tuple(label for label, _ in stacks), chosen, tuple(rows))


def evaluate_tasks(project: Project, stacks: Sequence[tuple[str, StackConfig]], names: Sequence[str]) -> Matrix:
    """Return the scores of every stack on tasks of lm-evaluation-harness, each pair scored once.

    Raises:
        MachineError: if lm-eval is not installed.
        UsageError: if a task is unknown.
        DataError: if a task's data is not on this machine.
    """
    folder = project.store.project / SUITES_FOLDER
    tasks = [task for name in names for task in load_tasks(name, folder)]
    rows = []
    for label, stack in stacks:
        with spending(project, "score", stack.layers[-1].name if stack.layers else "", stack):
            rows.append(tuple(_score_task(project, stack, task, label) for task in tasks))
    return Matrix(tuple(label for label, _ in stacks), tuple(task.name for task in tasks), tuple(rows))


def overlaps(project: Project, suites: Sequence[str] = ()) -> dict[str, Overlap]:
    """Return for each suite (all when none is named) how much of it the branch's layers have seen.

    Rows' words are those of the layers' replay and held-out samples; of all other rows only identities are kept.
    A layer's own held-out rows, where they are the suite, are no overlap.
    """
    every = find_suites(project)
    stack = project.stack()
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    rows = [row for layer in layers for row in stored_rows(project.store, layer.replay)]
    heldout = [row for layer in layers for row in stored_rows(project.store, layer.heldout)]
    held = {row_identity(row) for row in heldout}
    identities = known_rows(project, stack)
    found = {}
    for name in suites or every:
        written = name in project.settings.suites
        trained = [row for row in [*rows, *(heldout if written else ())] if written or row_identity(row) not in held]
        found[name] = find_overlap(every[name], trained, identities if written else identities - held)
    return found


def find_suites(
    project: Project, grown: StackConfig | None = None, *, stack: StackConfig | None = None
) -> dict[str, Suite]:
    """Return the suites of ``lamina.toml``, then one of held-out rows for each layer of the branch that has no suite.

    Held-out rows are scored by likelihood, so that every layer can be measured without writing a suite; those of a
    layer that was pulled stayed with its owner, and those that a later layer answers anew are left out.

    Args:
        project: the open project.
        grown: a stack that may follow the branch's; rows that its layers answer anew are left out as well.
        stack: what to take for the branch's; None means what it is now.
    """
    suites = {name: load_suite(name, settings) for name, settings in project.settings.suites.items()}
    judged = [suite for suite in suites.values() if suite.scorer == "judged"]
    suites |= {suite.name: dataclasses.replace(suite, judge=judge_name(project)) for suite in judged}
    stack = stack or project.stack()
    unwritten = [entry for entry in stack.layers if skill_of(stack, entry.name) not in suites]
    replaced = superseded(project, grown or stack) if unwritten else set()
    for entry in unwritten:
        heldout = stored_rows(project.store, read_layer(project.store, entry.layer).heldout)
        if rows := [row for row in heldout if row_identity(row) not in replaced]:
            suites[entry.name] = suite_of_rows(entry.name, rows, "likelihood")
    return suites


def prefixes(stack: StackConfig) -> list[tuple[str, StackConfig]]:
    """Return the stack's prefixes from the bare base upwards, each with a name for people."""
    labels = ["base", *(f"+{entry.name}" for entry in stack.layers)]
    return [(label, stack.prefix(height)) for height, label in enumerate(labels)]


def score_stack(project: Project, stack: StackConfig, suite: Suite, label: str | None = None) -> Score:
    """Return one stack's score on one suite; ``label`` is its name for people, the top layer's if None."""

    def run(loaded: LoadedBase, tick: Tick) -> Score:
        return run_suite(loaded, suite, tick, lambda: project.exact(stack), suite_judge(project, suite.name))

    return _once(project, stack, suite.digest, suite.name, label, len(suite.items), run)


def watch_stack(project: Project, stack: StackConfig, guard: Suite, watch: GuardWatch) -> Score | None:
    """Return one stack's score on a guard, or None if ``watch`` had proof of harm before the end.

    A score that is known already is returned whole.
    """

    def run(loaded: LoadedBase, tick: Tick) -> Score | None:
        judge = suite_judge(project, guard.name)
        return watch_suite(loaded, guard, watch, tick, lambda: project.exact(stack), judge)

    return _once(project, stack, guard.digest, guard.name, None, len(guard.items), run)


def own_and_guards(project: Project, skill: str, guards: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the suites that a layer should improve and those it must not harm.

    Any suite can be a guard, also the held-out rows of a layer; what must improve is only what ``lamina.toml`` names.

    Raises:
        UsageError: if a named guard is no suite.
    """
    known = find_suites(project)
    unknown = [name for name in guards if name not in known]
    if unknown:
        hint = f"known: {', '.join(known)}" if known else "add [suites.NAME] to lamina.toml"
        raise UsageError(f"--guard {unknown[0]}: no such suite", hint=hint)
    written = project.settings.suites
    marked = [name for name, suite in written.items() if suite.guard]
    own = [skill] if skill in written else []
    return own, [name for name in dict.fromkeys([*marked, *guards]) if name not in own]


def _score_task(project: Project, stack: StackConfig, task: HarnessTask, label: str) -> Score:
    def run(loaded: LoadedBase, tick: Tick) -> Score:
        score, cut = run_task(loaded, task, tick)
        if cut:
            project.progress.note(f"{task.name}: {cut} requests are longer than the context and were cut from the left")
        return score

    return _once(project, stack, task.digest, task.name, label, task.items, run)


def _once(
    project: Project,
    stack: StackConfig,
    digest: str,
    name: str,
    label: str | None,
    items: int,
    run: Callable[[LoadedBase, Tick], _Found],
) -> Score | _Found:
    """Return what is remembered of the stack on the suite or task with this digest, else what ``run`` finds, kept."""
    known = read_score(project.store, stack, digest)
    if known is not None:
        return dataclasses.replace(known, suite=name)
    loaded = project.activate(stack)
    title = label or prefixes(stack)[-1][0]
    with project.progress.stage(f"{title} on {name}", total=items, unit="items") as tick:
        score = run(loaded, tick)
    if score is not None:  # half a score is none, and must not be taken for one later
        _note_unscored(project, score)
        write_score(project.store, stack, digest, score)
    return score


def _note_items(project: Project, suite: Suite) -> None:
    if suite.repeated:
        project.progress.note(f"{suite.name}: {suite.repeated} items are there twice and count twice")


def _note_unscored(project: Project, score: Score) -> None:
    if score.unscored:
        suite = project.settings.suites.get(score.suite)
        silent = ", or got no verdict," if suite is not None and suite.scorer == "judged" else ""
        project.progress.note(
            f"{score.suite}: {score.unscored} of {len(score.values)} items are longer than the base's context of "
            f"{project.loaded.context} tokens{silent} and are not scored"
        )
