"""What is different between two stacks: layers added, removed, rescaled and moved."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

from lamina.stack.manifest import BasePin, StackConfig, StackEntry

__all__ = ["Moved", "Rescaled", "StackDifference", "diff_stacks"]


@dataclass(frozen=True, slots=True)
class Rescaled:
    """A layer that is in both stacks with another scale."""

    entry: StackEntry
    old: float
    new: float


@dataclass(frozen=True, slots=True)
class Moved:
    """A layer that lies in another order to the ones both stacks have; places count from 1 at the bottom of each."""

    entry: StackEntry
    old: int
    new: int


@dataclass(frozen=True, slots=True)
class StackDifference:
    """What turns one stack into another. ``bases`` is filled where they stand on different ones."""

    bases: tuple[BasePin, BasePin] | None
    removed: tuple[StackEntry, ...]
    added: tuple[StackEntry, ...]
    rescaled: tuple[Rescaled, ...]
    moved: tuple[Moved, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is no difference."""
        return not (self.bases or self.removed or self.added or self.rescaled or self.moved)


def diff_stacks(old: StackConfig, new: StackConfig) -> StackDifference:
    """Return what turns ``old`` into ``new``; layers are the same if their digests are.

    Moved are as few layers as can be: those outside the longest run that both stacks have in the same order.
    """
    places = _occurrences(old), _occurrences(new)
    shared = [key for key in places[1] if key in places[0]]
    before, after = (list(stack.layers) for stack in (old, new))
    pairs = [(places[0][key], places[1][key]) for key in shared]
    still = _longest_rising([place for place, _ in pairs])
    rescaled = [(before[i], after[j]) for i, j in pairs if before[i].scale != after[j].scale]
    return StackDifference(
        bases=None if old.base.digest == new.base.digest else (old.base, new.base),
        removed=tuple(before[place] for key, place in places[0].items() if key not in places[1]),
        added=tuple(after[place] for key, place in places[1].items() if key not in places[0]),
        rescaled=tuple(Rescaled(entry, was.scale, entry.scale) for was, entry in rescaled),
        moved=tuple(Moved(after[j], i + 1, j + 1) for i, j in pairs if i not in still),
    )


def _occurrences(stack: StackConfig) -> dict[tuple[str, int], int]:
    """Return the place of each layer; the same layer twice is told apart by how often it came before."""
    seen: dict[str, int] = {}
    places = {}
    for place, entry in enumerate(stack.layers):
        seen[entry.layer] = seen.get(entry.layer, 0) + 1
        places[entry.layer, seen[entry.layer]] = place
    return places


def _longest_rising(numbers: list[int]) -> set[int]:
    """Return the members of a longest rising subsequence (Fredman 1975: patience sorting)."""
    ends: list[int] = []
    before: dict[int, int | None] = {}
    for number in numbers:
        pile = bisect_left(ends, number)
        before[number] = ends[pile - 1] if pile else None
        ends[pile : pile + 1] = [number]
    kept: set[int] = set()
    at = ends[-1] if ends else None
    while at is not None:
        kept.add(at)
        at = before[at]
    return kept
