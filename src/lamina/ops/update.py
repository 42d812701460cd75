"""``lamina update``: train only what is new in the data, plus replay, as a new layer on top, through the gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lamina.config import Recipe
from lamina.data.identity import row_identity
from lamina.errors import StackError
from lamina.ops.admit import Admission
from lamina.ops.project import Project
from lamina.ops.rows import known_rows, prepare_rows, read_files
from lamina.ops.train import train_layer
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig
from lamina.stack.order import skill_of

__all__ = ["update"]


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
) -> Admission | None:
    """Train a layer on the rows of ``paths`` that no layer in the current branch has seen; None if there are none.

    Args:
        project: the open project.
        paths: the files as they are now.
        recipe: hyper-parameters.
        origins: where non-default values came from.
        skill: which layer's skill this updates; None means the one trained on a file of the same name.
        suite: the suite that must improve; None means the one named like the skill.
        guards: suites that must not get worse, besides those marked ``guard``.
        accept: let the layer in whatever the gate says.
        remedies: whether to try any where the gate refuses; None means what the settings say.

    Raises:
        StackError: if no layer was trained on a file of that name and ``skill`` is None.
        DataError: if a file cannot be used.
    """
    stack = project.stack()
    name = skill or _find_skill(project, stack, paths)
    files, rows = read_files(project, paths)
    known = known_rows(project, stack)
    new = [row for row in rows if row_identity(row) not in known]
    project.progress.note(f"{len(new)} new rows, {len(rows) - len(new)} known already")
    if not new:
        return None
    data = prepare_rows(project, files, new, recipe)
    return train_layer(
        project,
        data,
        name=_next_name(stack, name),
        recipe=recipe,
        origins=origins,
        skill=suite or name,
        guards=guards,
        accept=accept,
        remedies=remedies,
    )


def _find_skill(project: Project, stack: StackConfig, paths: Sequence[Path]) -> str:
    names = {path.name for path in paths}
    for entry in reversed(stack.layers):
        if names & {source.file for source in read_layer(project.store, entry.layer).data}:
            return skill_of(stack, entry.name)
    raise StackError(
        f"no layer in '{project.branch}' was trained on {' or '.join(sorted(names))}",
        hint="use `lamina train FILE --as NAME` for a new skill, or name the skill with --as",
    )


def _next_name(stack: StackConfig, skill: str) -> str:
    taken = {entry.name for entry in stack.layers}
    return next(name for number in range(2, len(taken) + 3) if (name := f"{skill}.{number}") not in taken)
