"""What a person wants forgotten, from what was typed: a layer, rows of a file, or what is no longer in a file."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

from lamina.data.identity import row_identity
from lamina.data.read import read_rows
from lamina.errors import DataError, StackError, UsageError
from lamina.ops.forget import Wish
from lamina.ops.project import Project
from lamina.ops.rows import stored_rows
from lamina.ops.sources import remaining_rows
from lamina.ops.update import look, skills_of
from lamina.records import Conversation
from lamina.stack.layers import read_layer
from lamina.stack.order import find_entry
from lamina.stack.seen import read_seen

__all__ = ["make_wish", "parse_numbers"]

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def make_wish(project: Project, targets: Sequence[str], *, numbers: str | None = None, removed: bool = False) -> Wish:
    """Return what is to be forgotten.

    Args:
        project: the open project.
        targets: a layer of the current branch, or files.
        numbers: which rows of the one file, as ``3,17-20``; None means all.
        removed: not the rows of the files, but those that layers were trained on from them and that they lack now; they
            lack an answer that was edited, too.

    Raises:
        UsageError: if the words do not fit together.
        DataError: if a file cannot be used, or has no row of that number.
        StackError: if a target is neither a layer nor a file.
    """
    if removed and numbers is not None:
        raise UsageError("--rows names rows of a file, --removed those that it lacks", hint="give one of the two")
    if numbers is not None and len(targets) > 1:
        raise UsageError(f"--rows belongs to one file, {len(targets)} are named", hint="one command for each file")
    if removed:
        return _removed(project, [Path(target) for target in targets])
    if numbers is not None or all(Path(target).exists() for target in targets):
        return _of_files([Path(target) for target in targets], numbers)
    if len(targets) > 1:
        absent = next(target for target in targets if not Path(target).exists())
        raise DataError(absent, "cannot be read: no such file", hint="name one layer, or files that are here")
    return _of_layer(project, targets[0])


def parse_numbers(text: str) -> set[int]:
    """Return the numbers in ``3,17-20``.

    Raises:
        UsageError: if it is not of that form.
    """
    found: set[int] = set()
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 0 < first <= last:
            raise UsageError(f"--rows {text}: '{part.strip()}' is no row or range of rows", hint="--rows 3,17-20")
        found.update(range(first, last + 1))
    return found


def _of_files(paths: Sequence[Path], numbers: str | None) -> Wish:
    rows = [row for path in paths for row in read_rows(path).rows]
    if numbers is not None:
        wanted = parse_numbers(numbers)
        rows = [row for row in rows if row.row in wanted]
        if absent := sorted(wanted - {row.row for row in rows}):
            raise DataError(paths[0], f"has no row {absent[0]}", hint="rows count from 1; in JSONL they are the lines")
    return _wish(f"{_count(rows)} of {' '.join(path.name for path in paths)}", rows)


def _of_layer(project: Project, name: str) -> Wish:
    stack = project.stack()
    try:
        entry = stack.layers[find_entry(stack, name)]
    except StackError as error:
        raise StackError(f"'{name}' is neither a file nor a layer of '{project.branch}'", hint=error.hint) from error
    layer = read_layer(project.store, entry.layer)
    rows = frozenset(seen.row for seen in read_seen(project.store, layer))
    _, texts = remaining_rows(project, layer, (), spare=rows)
    return Wish(what=f"layer {entry.name}", rows=rows, whole=(entry.layer,), texts=tuple(texts))


def _removed(project: Project, paths: Sequence[Path]) -> Wish:
    rows: set[str] = set()
    for skill, files in skills_of(project, paths).items():
        rows |= set(look(project, skill, files).changes.lacking)
    what = f"{_count(rows)} that {' '.join(path.name for path in paths)} lacks now"
    return Wish(what=what, rows=frozenset(rows), texts=tuple(_carried(project, rows)))


def _carried(project: Project, rows: Collection[str]) -> list[Conversation]:
    """Return those of the rows whose words some layer of the branch carries along."""
    found: dict[str, Conversation] = {}
    for entry in project.stack().layers:
        layer = read_layer(project.store, entry.layer)
        carried = [*stored_rows(project.store, layer.replay), *stored_rows(project.store, layer.heldout)]
        found |= {identity: row for row in carried if (identity := row_identity(row)) in rows}
    return list(found.values())


def _wish(what: str, rows: Sequence[Conversation]) -> Wish:
    texts = {row_identity(row): row for row in rows}
    return Wish(what=what, rows=frozenset(texts), texts=tuple(texts.values()))


def _count(rows: Collection[object]) -> str:
    return f"{len(rows)} row{'' if len(rows) == 1 else 's'}"
