"""``lamina eval``: stacks x suites, each pair scored once and remembered by digest."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lamina.errors import UsageError
from lamina.evaluate.run import run_suite
from lamina.evaluate.suites import Suite, load_suite, suite_of_rows
from lamina.ops.project import Project
from lamina.ops.results import read_score, write_score
from lamina.ops.rows import stored_rows
from lamina.records import Matrix, Score
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig
from lamina.stack.order import skill_of

__all__ = ["evaluate", "find_suites", "own_and_guards", "prefixes", "score_stack"]


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
    rows = [tuple(_score(project, stack, every[name], label) for name in chosen) for label, stack in stacks]
    return Matrix(tuple(label for label, _ in stacks), chosen, tuple(rows))


def find_suites(project: Project) -> dict[str, Suite]:
    """Return the suites of ``lamina.toml``, then one of held-out rows for each layer of the branch that has no suite.

    Held-out rows are scored by likelihood, so that every layer can be measured without writing a suite; those of a
    layer that was pulled stayed with its owner.
    """
    suites = {name: load_suite(name, settings) for name, settings in project.settings.suites.items()}
    stack = project.stack()
    for entry in stack.layers:
        layer = read_layer(project.store, entry.layer)
        rows = stored_rows(project.store, layer.heldout)
        if rows and skill_of(stack, entry.name) not in suites:
            suites[entry.name] = suite_of_rows(entry.name, rows, "likelihood")
    return suites


def prefixes(stack: StackConfig) -> list[tuple[str, StackConfig]]:
    """Return the stack's prefixes from the bare base upwards, each with a name for people."""
    labels = ["base", *(f"+{entry.name}" for entry in stack.layers)]
    return [(label, stack.model_copy(update={"layers": stack.layers[:height]})) for height, label in enumerate(labels)]


def score_stack(project: Project, stack: StackConfig, suite: str) -> Score:
    """Return one stack's score on one suite of the project."""
    return _score(project, stack, find_suites(project)[suite], prefixes(stack)[-1][0])


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


def _score(project: Project, stack: StackConfig, suite: Suite, label: str) -> Score:
    known = read_score(project.store, stack, suite.digest)
    if known is not None:
        return dataclasses.replace(known, suite=suite.name)
    loaded = project.activate(stack)
    with project.progress.stage(f"{label} on {suite.name}", total=len(suite.items), unit="items") as tick:
        score = run_suite(loaded, suite, tick)
    write_score(project.store, stack, suite.digest, score)
    return score
