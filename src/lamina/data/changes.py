"""What has changed in files since layers were trained on them, told by content alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lamina.data.identity import prompt_identity, row_identity
from lamina.records import Conversation

__all__ = ["Changes", "Contradiction", "Seen", "compare", "superseded_rows"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A row that a layer has seen, by its hashes.

    Attributes:
        row: its identity.
        prompt: identity of all but its last answer, None where there is none or none was recorded.
        height: place of its layer in the stack, from 0.
        layer: name of that layer.
        is_own: whether that layer serves the skill whose files are compared.
        is_from_files: whether it stood in a file of the name of one that is compared, as far as is known.
    """

    row: str
    prompt: str | None
    height: int
    layer: str
    is_own: bool = True
    is_from_files: bool = True


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A row to be trained, and the layer that was trained on another answer to the same prompt."""

    row: Conversation
    layer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """Every row of the files in exactly one of four parts, and what else there is to say.

    Attributes:
        new: rows that no layer has seen.
        changed: rows that answer anew what a layer of the skill was trained on, whose old answer is gone.
        known: rows that a layer of the skill has seen.
        duplicates: rows that stand in the files before, or that a layer of another skill has seen.
        contradictions: those of ``new`` that answer otherwise than a row already trained, which stays.
        removed: identities of rows of these files that layers of the skill were trained on and that are gone.
        lacking: identities of all rows that layers were trained on from the files and that these lack now, the removed
            ones and those with another answer now.
        to_train: new and changed rows, in the order of the files.
    """

    new: tuple[Conversation, ...]
    changed: tuple[Conversation, ...]
    known: tuple[Conversation, ...]
    duplicates: tuple[Conversation, ...]
    contradictions: tuple[Contradiction, ...]
    removed: tuple[str, ...]
    lacking: tuple[str, ...]
    to_train: tuple[Conversation, ...]

    def counts(self) -> dict[str, int]:
        """Return how many rows are in each part."""
        parts = ("new", "changed", "removed", "duplicates", "known", "contradictions")
        return {part: len(getattr(self, part)) for part in parts}


def compare(rows: Sequence[Conversation], seen: Sequence[Seen]) -> Changes:
    """Return what is new in ``rows`` for a stack whose layers have seen ``seen``.

    Which part a row belongs to does not depend on the order of ``rows``, but for which of several equal ones is the
    first. A row that was replaced by another answer and is back, the other answer gone, counts as changed.
    """
    past = _Past(rows, seen)
    parts: dict[str, list[Conversation]] = {"new": [], "changed": [], "known": [], "duplicates": []}
    contradictions: list[Contradiction] = []
    to_train: list[Conversation] = []
    met: set[str] = set()
    for row in rows:
        identity = row_identity(row)
        part = "duplicates" if identity in met else past.part_of(identity, prompt_identity(row))
        met.add(identity)
        parts[part].append(row)
        if part in ("new", "changed"):
            to_train.append(row)
        if part == "new" and (other := past.contradicted_by(prompt_identity(row))) is not None:
            contradictions.append(Contradiction(row, other))
    return Changes(
        **{part: tuple(found) for part, found in parts.items()},
        contradictions=tuple(contradictions),
        removed=past.removed(to_train),
        lacking=past.lacking(),
        to_train=tuple(to_train),
    )


def superseded_rows(seen: Iterable[Seen]) -> set[str]:
    """Return the identities of rows whose prompt a higher layer has seen with other answers only."""
    rows = [one for one in seen if one.prompt is not None]
    newest = _newest(rows)
    return {one.row for one in rows if all(one.row != other.row for other in newest[one.prompt])}


class _Past:
    """What layers have seen, beside the rows that the files hold now."""

    def __init__(self, rows: Sequence[Conversation], seen: Sequence[Seen]) -> None:
        self._present = {row_identity(row) for row in rows}
        self._own = [one for one in seen if one.is_own]
        self._own_rows = {one.row for one in self._own}
        self._other_rows = {one.row for one in seen if not one.is_own}
        self._answers: dict[str | None, list[Seen]] = defaultdict(list)
        for one in seen:
            if one.prompt is not None:
                self._answers[one.prompt].append(one)
        self._newest = _newest(self._own)

    def part_of(self, identity: str, prompt: str | None) -> str:
        if identity in self._own_rows:
            newest = self._newest.get(prompt, [])
            is_current = not newest or any(one.row == identity for one in newest)
            return "known" if is_current or any(map(self._is_alive, newest)) else "changed"
        if identity in self._other_rows:
            return "duplicates"
        old = self._newest.get(prompt, [])
        return "new" if all(map(self._is_alive, old)) else "changed"

    def contradicted_by(self, prompt: str | None) -> str | None:
        found = self._answers.get(prompt, [])
        return max(found, key=lambda one: one.height).layer if found else None

    def removed(self, to_train: Sequence[Conversation]) -> tuple[str, ...]:
        answered = {prompt_identity(row) for row in to_train} - {None}
        gone = (one for one in self._own if not self._is_alive(one) and one.prompt not in answered)
        return tuple(sorted({one.row for one in gone} - superseded_rows(self._own)))

    def lacking(self) -> tuple[str, ...]:
        return tuple(sorted({one.row for one in self._own if not self._is_alive(one)}))

    def _is_alive(self, one: Seen) -> bool:
        """Whether the row is still in its file, or stood in one that is not looked at."""
        return one.row in self._present or not one.is_from_files


def _newest(seen: Iterable[Seen]) -> dict[str | None, list[Seen]]:
    """Return by prompt what the highest layer that has seen the prompt has seen of it."""
    newest: dict[str | None, list[Seen]] = {}
    for one in seen:
        if one.prompt is None:
            continue
        held = newest.get(one.prompt)
        if held is None or one.height > held[0].height:
            newest[one.prompt] = [one]
        elif one.height == held[0].height:
            held.append(one)
    return newest
