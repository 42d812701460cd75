"""``lamina watch``: files that grow keep the stack current by themselves.

Nothing is remembered but in the store: what is new is what no layer has seen. So the watch may be killed at any moment,
and what it missed is found by the first look of the next one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lamina.config import Recipe
from lamina.data.find import SUFFIXES, root_of
from lamina.errors import BusyError, DataError, LaminaError
from lamina.ops.admit import Admission
from lamina.ops.project import Project
from lamina.ops.update import find_data, skill_for, update_skill
from lamina.refs import Digest, check_name

__all__ = ["Event", "Watch", "file_changes"]

Fingerprint = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What came of a look at one skill's files.

    Attributes:
        kind: ``updated``, ``refused`` (by the gate), ``unchanged``, ``error`` (the files or the training), or ``busy``
            (another lamina is at work; it is tried again).
        skill: the skill.
        counts: rows by part, as ``lamina update`` counts them.
        message: what is wrong, and what to do.
        admission: what became of the layer.
    """

    kind: Literal["updated", "refused", "unchanged", "error", "busy"]
    skill: str
    counts: dict[str, int] = field(default_factory=dict)
    message: str = ""
    admission: Admission | None = None


@dataclass(kw_only=True)
class Watch:
    """A watch over files, folders and patterns of one project.

    Attributes:
        project: the open project.
        paths: what is watched.
        recipe: hyper-parameters of every layer.
        origins: where non-default values came from.
        guards: suites that must not get worse, besides those marked ``guard``.
    """

    project: Project
    paths: Sequence[Path]
    recipe: Recipe
    origins: dict[str, str]
    guards: Sequence[str] = ()
    _handled: dict[str, Fingerprint] = field(default_factory=dict)

    def follow(self, batches: Iterable[Collection[Path]]) -> Iterator[Event]:
        """Look once, then again whenever writes have settled, and yield what came of it.

        Args:
            batches: files that have changed, as they do; an empty one says that for a while nothing has.
        """
        yield from self._look()
        is_due = True  # nobody was told of what was written meanwhile
        for batch in batches:
            if batch:
                is_due = True
            elif is_due:
                is_due = yield from self._look()

    def _look(self) -> Generator[Event, None, bool]:
        """Update every skill whose files have changed since the last look; return whether another one is due."""
        is_due = False
        for skill, files in self._group().items():
            fingerprint = _take_fingerprint(files)
            if not fingerprint or self._handled.get(skill) == fingerprint:
                continue
            event = self._update(skill, files)
            yield event
            if event.kind == "busy":
                is_due = True
            else:
                # Refused rows are not tried again before the files change.
                self._handled[skill] = fingerprint
        return is_due

    def _group(self) -> dict[str, list[Path]]:
        """Return the files by skill: as layers record them, else the name of the file."""
        stack, found = self.project.stack(), defaultdict[str, list[Path]](list)
        for path in find_data(self.project, self.paths, may_be_none=True):
            found[skill_for(self.project, stack, path.name) or path.stem].append(path)
        return found

    def _update(self, skill: str, files: Sequence[Path]) -> Event:
        try:
            with self.project.working("watch"):
                done = update_skill(
                    self.project,
                    check_name(skill),
                    files,
                    recipe=self.recipe,
                    origins=self.origins,
                    guards=self.guards,
                )
        except BusyError as error:
            return Event(kind="busy", skill=skill, message=error.message)
        except LaminaError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return Event(kind="error", skill=skill, message=f"{error.message}{hint}")
        counts, admission = done.looked.counts(), done.admission
        if admission is None:
            return Event(kind="unchanged", skill=skill, counts=counts)
        kind: Literal["updated", "refused"] = "updated" if admission.accepted else "refused"
        return Event(kind=kind, skill=skill, counts=counts, admission=admission)


def file_changes(paths: Sequence[Path], *, settle_s: float, polling: bool = False) -> Iterator[set[Path]]:
    """Yield data files as they change, and an empty set whenever nothing has for ``settle_s`` seconds.

    Args:
        paths: files, folders and patterns.
        settle_s: how long writes must rest.
        polling: look at the files again and again instead of asking the system, which network folders need; it is
            also what happens where the system has no watch left to give.

    Raises:
        DataError: if a folder is not there.
    """
    import watchfiles

    roots = sorted({root_of(path) for path in paths})
    if absent := [root for root in roots if not root.is_dir()]:
        raise DataError(absent[0], "is no folder that could be watched", hint="make it first, or check the path")
    watching = watchfiles.watch(
        *roots,
        watch_filter=_is_data_change,
        rust_timeout=round(settle_s * 1000),
        yield_on_timeout=True,
        recursive=any("**" in path.parts for path in paths),
        force_polling=polling,
    )
    try:
        for changes in watching:
            yield {Path(name) for _, name in changes}
    except OSError:
        if polling:
            raise
        yield from file_changes(paths, settle_s=settle_s, polling=True)


def _is_data_change(change: object, name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _take_fingerprint(files: Sequence[Path]) -> Fingerprint:
    """Return which files there are, with which content; a file that is gone again by now is left out."""
    found = []
    for path in files:
        try:
            found.append((str(path), str(Digest.of_file(path))))
        except OSError:
            continue
    return tuple(found)
