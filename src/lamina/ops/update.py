"""``lamina update``: train only what is new or changed in the data, plus replay, as layers on top, through the gate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.config import Recipe
from lamina.data.changes import Changes, compare
from lamina.data.find import find_files
from lamina.data.identity import row_identity
from lamina.data.read import DataFile, read_rows
from lamina.errors import StackError, UsageError
from lamina.ops.admit import Admission
from lamina.ops.project import Project
from lamina.ops.rows import forgotten_rows, prepare_rows, seen_rows
from lamina.ops.train import train_layer
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig
from lamina.stack.order import skill_of

__all__ = ["Looked", "Updated", "find_data", "look", "skill_for", "skills_of", "update", "update_skill"]

_MOST_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What has changed in the files of one skill.

    Attributes:
        skill: the skill.
        files: its files, read.
        changes: their rows against what the stack has seen.
        forgotten: rows left out since they were taken away by ``lamina forget``.
    """

    skill: str
    files: tuple[DataFile, ...]
    changes: Changes
    forgotten: int

    def counts(self) -> dict[str, int]:
        """Return how many rows are new, changed and so on."""
        return {**self.changes.counts(), "forgotten": self.forgotten}


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """What was found in one skill's files, and the layer that came of it, None where there was nothing to train."""

    looked: Looked
    admission: Admission | None


def update(
    project: Project,
    paths: Sequence[Path],
    *,
    recipe: Recipe,
    origins: dict[str, str],
    skill: str | None = None,
    suite: str | None = None,
    guards: Sequence[str] = (),
    accept: bool = False,
    remedies: bool | None = None,
) -> list[Updated]:
    """Train a layer for each skill whose files hold rows that the current branch has not seen.

    Args:
        project: the open project.
        paths: the files as they are now; folders and patterns mean the data files in them.
        recipe: hyper-parameters.
        origins: where non-default values came from.
        skill: which layer's skill the files update; None means that of the layers trained on files of the same names.
        suite: the suite that must improve; None means the one named like the skill.
        guards: suites that must not get worse, besides those marked ``guard``.
        accept: let the layers in whatever the gate says.
        remedies: whether to try any where the gate refuses; None means what the settings say.

    Raises:
        StackError: if no layer was trained on a file of that name and ``skill`` is None.
        BusyError: if another lamina is at work in the project.
        DataError: if a file cannot be used.
    """
    with project.working("update"):
        groups = skills_of(project, find_data(project, paths), skill)
        return [
            update_skill(
                project,
                name,
                files,
                recipe=recipe,
                origins=origins,
                suite=suite,
                guards=guards,
                accept=accept,
                remedies=remedies,
            )
            for name, files in groups.items()
        ]


def update_skill(
    project: Project,
    skill: str,
    paths: Sequence[Path],
    *,
    recipe: Recipe,
    origins: dict[str, str],
    suite: str | None = None,
    guards: Sequence[str] = (),
    accept: bool = False,
    remedies: bool | None = None,
) -> Updated:
    """Train a layer on what one skill's files hold that the current branch has not seen, if there is any.

    The first layer of a skill takes its name. What was changed is trained on, never held out.

    Raises:
        UsageError: if there is no such suite.
        DataError: if a file cannot be used.
    """
    if suite is not None and suite not in project.settings.suites:
        known = ", ".join(project.settings.suites)
        raise UsageError(
            f"--suite {suite}: no such suite in lamina.toml", hint=f"known: {known}" if known else "add [suites.NAME]"
        )
    looked = look(project, skill, paths)
    rows = looked.changes.to_train
    if not rows:
        return Updated(looked=looked, admission=None)
    stack = project.stack()
    sides = {row_identity(row): False for row in looked.changes.changed}
    admission = train_layer(
        project,
        prepare_rows(project, looked.files, rows, recipe, sides=sides),
        name=_next_name(stack, skill),
        recipe=recipe,
        origins=origins,
        skill=suite or skill,
        guards=guards,
        accept=accept,
        remedies=remedies,
    )
    return Updated(looked=looked, admission=admission)


def look(project: Project, skill: str, paths: Sequence[Path]) -> Looked:
    """Return what has changed in the files of a skill, and say it.

    Raises:
        DataError: if a file cannot be used.
    """
    files = tuple(read_rows(path) for path in paths)
    forgotten = forgotten_rows(project.store)
    every = [row for file in files for row in file.rows]
    rows = [row for row in every if row_identity(row) not in forgotten] if forgotten else every
    seen = seen_rows(project, project.stack(), skill=skill, files={path.name for path in paths})
    looked = Looked(skill=skill, files=files, changes=compare(rows, seen), forgotten=len(every) - len(rows))
    for line in _describe(looked):
        project.progress.note(line)
    return looked


def find_data(project: Project, paths: Sequence[Path], *, may_be_none: bool = False) -> list[Path]:
    """Return the files that ``paths`` mean; the files of suites are never meant by a folder or a pattern.

    Raises:
        DataError: if a folder or a pattern means no file, unless it may.
    """
    suites = project.settings.suites.values()
    tests = [path for suite in suites for path in (suite.file, suite.shots_file) if path is not None]
    return find_files(paths, without=tests, may_be_none=may_be_none)


def skills_of(project: Project, paths: Sequence[Path], skill: str | None = None) -> dict[str, list[Path]]:
    """Return the files by skill: ``skill``, else that of the topmost layer that was trained on a file of that name.

    Raises:
        StackError: naming the files that no layer was trained on, if ``skill`` is None.
    """
    if skill is not None:
        return {skill: list(paths)}
    found: dict[str, list[Path]] = defaultdict(list)
    unknown: list[str] = []
    for path in paths:
        name = skill_for(project, project.stack(), path.name)
        if name is None:
            unknown.append(path.name)
        else:
            found[name].append(path)
    if unknown:
        raise StackError(
            f"no layer in '{project.branch}' was trained on {' or '.join(sorted(unknown))}",
            hint="use `lamina train FILE --as NAME` for a new skill, or name the skill with --as",
        )
    return dict(found)


def skill_for(project: Project, stack: StackConfig, file: str) -> str | None:
    """Return the skill of the topmost layer that was trained on a file of that name, None if none was."""
    for entry in reversed(stack.layers):
        if file in {source.file for source in read_layer(project.store, entry.layer).data}:
            return skill_of(stack, entry.name)
    return None


def _describe(looked: Looked) -> Iterator[str]:
    changes = looked.changes
    yield from (file.describe() for file in looked.files)
    yield (
        f"{looked.skill}: {len(changes.new)} new rows, {len(changes.changed)} changed, {len(changes.removed)} removed, "
        f"{len(changes.duplicates)} duplicate, {len(changes.known)} known already"
    )
    if changes.contradictions:
        yield f"{len(changes.contradictions)} of the new rows answer otherwise than rows trained before:"
        yield from (
            f"  {one.row.file}:{one.row.row}, layer {one.layer}" for one in changes.contradictions[:_MOST_SHOWN]
        )
        if (more := len(changes.contradictions) - _MOST_SHOWN) > 0:
            yield f"  and {more} more"
    if changes.removed:
        names = " ".join(str(file.path) for file in looked.files)
        yield f"the removed rows are still in the model; to take them out: lamina forget --removed {names}"
    if looked.forgotten:
        yield f"{looked.forgotten} rows left out, which `lamina forget` took away"


def _next_name(stack: StackConfig, skill: str) -> str:
    taken = {entry.name for entry in stack.layers}
    if all(skill_of(stack, name) != skill for name in taken):
        return skill
    return next(name for number in range(2, len(taken) + 3) if (name := f"{skill}.{number}") not in taken)
