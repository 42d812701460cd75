"""The files that a layer was trained on, found again and checked against the digests that it records."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from lamina.data.identity import row_identity
from lamina.data.read import DataFile, read_rows
from lamina.errors import DataError
from lamina.ops.project import Project
from lamina.ops.rows import forgotten_rows, read_files, stored_rows
from lamina.records import Conversation
from lamina.refs import Digest
from lamina.stack.manifest import DataSource, LayerConfig
from lamina.stack.seen import read_seen

__all__ = ["has_sources", "recorded_rows", "remaining_rows"]


def has_sources(project: Project, layer: LayerConfig, paths: Sequence[Path] = ()) -> bool:
    """Return whether every file that the layer was trained on is here as it was."""
    return bool(layer.data) and all(isinstance(found, Path) for found in _look(project, layer, paths))


def recorded_rows(
    project: Project, layer: LayerConfig, paths: Sequence[Path] = ()
) -> tuple[tuple[DataFile, ...], list[Conversation]]:
    """Return the files that the layer was trained on, and those of their rows that it has seen, in their order.

    A file is looked for among ``paths`` by its content, then in the project's folder and its ``data`` by its recorded
    name.

    Raises:
        DataError: naming every file that is missing or has changed, with the digest it should have.
    """
    found = _look(project, layer, paths)
    problems = [problem for problem in found if isinstance(problem, str)]
    if problems or not found:
        raise DataError(
            f"layer '{layer.name}'",
            f"was trained on {'files that are not here as they were: ' + '; '.join(problems) if found else 'no files'}",
            hint="restore them, or name files of that content with --data",
        )
    files, rows = read_files(project, [path for path in found if isinstance(path, Path)])
    seen = {one.row for one in read_seen(project.store, layer)}
    if gone := len(seen & forgotten_rows(project.store)):
        raise DataError(
            f"layer '{layer.name}'",
            f"has seen {gone} rows that `lamina forget` took away",
            hint="it cannot be trained again; `lamina log` names the layer that took its place",
        )
    chosen = [row for row in rows if row_identity(row) in seen]
    if len(chosen) != len(seen):
        raise DataError(
            f"layer '{layer.name}'",
            f"has seen {len(seen)} rows, its files hold {len(chosen)} of them: this version of lamina reads them "
            f"otherwise than {layer.versions.get('lamina', 'the one that trained it')}",
            hint="use the version that `lamina show` names",
        )
    return files, chosen


def remaining_rows(
    project: Project,
    layer: LayerConfig,
    without: Collection[str],
    paths: Sequence[Path] = (),
    spare: Collection[str] = (),
) -> tuple[tuple[DataFile, ...], list[Conversation]]:
    """Return the rows that the layer has seen, but for some, and the files that they stand in now.

    Rows are found by content, so a file may have grown, shrunk or changed its format since: among ``paths``, in the
    project's folder and its ``data`` under the recorded names, and in what the layer carries along.

    Args:
        project: the open project.
        layer: the layer.
        without: identities of rows that are not wanted.
        paths: files to look in first.
        spare: identities of rows that need not be found.

    Raises:
        DataError: if a row that is wanted is nowhere.
    """
    wanted = {one.row for one in read_seen(project.store, layer)} - set(without)
    places = [path for source in layer.data for path in _places(project.store.project, source)]
    files, found = list[DataFile](), dict[str, Conversation]()
    for path in dict.fromkeys([*paths, *places]):
        file = read_rows(path)
        rows = {identity: row for row in file.rows if (identity := row_identity(row)) in wanted - found.keys()}
        files += [file] if rows else []
        found |= rows
    for blob in (layer.replay, layer.heldout):
        carried = {row_identity(row): row for row in stored_rows(project.store, blob)}
        found |= {identity: row for identity, row in carried.items() if identity in wanted - found.keys()}
    if missing := wanted - found.keys() - set(spare):
        listed = ", ".join(dict.fromkeys(Path(source.file).name for source in layer.data)) or "no file"
        raise DataError(
            f"layer '{layer.name}'",
            f"{len(missing)} of the {len(wanted)} rows that it must keep are not here any more (it was trained on "
            f"{listed}), so it cannot be trained again",
            hint="put the files back, or name files that hold the rows with --data; `lamina forget LAYER` drops it",
        )
    return tuple(files), list(found.values())


def _look(project: Project, layer: LayerConfig, paths: Sequence[Path]) -> list[Path | str]:
    """Return for each recorded file where it lies, or what is wrong with it."""
    named = {str(Digest.of_file(path)): path for path in paths if path.is_file()}
    return [named.get(source.digest) or _in_folder(project.store.project, source) for source in layer.data]


def _in_folder(folder: Path, source: DataSource) -> Path | str:
    found = {str(Digest.of_file(path)): path for path in _places(folder, source)}
    if not found:
        return f"{source.file} (expected {source.digest}, not found)"
    return found.get(source.digest) or f"{source.file} (expected {source.digest}, found {' and '.join(found)})"


def _places(folder: Path, source: DataSource) -> list[Path]:
    """Return where a file of that name lies: in the project's folder, or in its ``data``, where the page puts files."""
    name = Path(source.file).name
    return [path for path in (folder / name, folder / "data" / name) if path.is_file()]
