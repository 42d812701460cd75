"""Which files a person means by a name, a folder or a pattern."""

from __future__ import annotations

import glob
from collections.abc import Collection, Sequence
from pathlib import Path

from lamina.errors import DataError

__all__ = ["SUFFIXES", "find_files", "root_of"]

SUFFIXES = (".csv", ".json", ".jsonl", ".md", ".ndjson", ".parquet", ".tsv", ".txt")


def find_files(names: Sequence[Path], *, without: Collection[Path] = (), may_be_none: bool = False) -> list[Path]:
    """Return the data files that ``names`` mean, each once, in their order.

    A folder means the data files that lie in it, not those in folders below; a pattern (``*``, ``?``, ``[…]``, and
    ``**`` for folders at any depth) means the files that fit; any other name means itself, whether or not it is there.

    Args:
        names: files, folders and patterns.
        without: files that are never meant by a folder or a pattern, such as test sets.
        may_be_none: take a folder or pattern that means no file for an empty list.

    Raises:
        DataError: if a folder or a pattern means no file.
    """
    spared = {path.resolve() for path in without}
    found: dict[Path, None] = {}
    for name in names:
        if not name.is_dir() and (name.exists() or not glob.has_magic(str(name))):
            found[name] = None
            continue
        root, pattern = (name, "*") if name.is_dir() else _split(name)
        files = [path for path in sorted(root.glob(pattern)) if _is_data(path) and path.resolve() not in spared]
        if not files and not may_be_none:
            raise DataError(name, "no data files there", hint=f"expected names that end in {', '.join(SUFFIXES)}")
        found |= dict.fromkeys(files)
    return list(found)


def root_of(name: Path) -> Path:
    """Return the folder under which everything lies that ``name`` means, now or later."""
    if name.is_dir():
        return name
    return _split(name)[0] if not name.exists() and glob.has_magic(str(name)) else name.parent


def _split(pattern: Path) -> tuple[Path, str]:
    """Return a pattern's folder without wildcards, and the rest."""
    first = next(place for place, part in enumerate(pattern.parts) if glob.has_magic(part))
    return Path(*pattern.parts[:first]), str(Path(*pattern.parts[first:]))


def _is_data(path: Path) -> bool:
    hidden = any(part.startswith(".") and part not in (".", "..") for part in path.parts)
    return path.is_file() and path.suffix.lower() in SUFFIXES and not hidden
