"""Which rows are held out, and which are there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from lamina.data.identity import row_identity
from lamina.records import Conversation

__all__ = ["drop_duplicates", "split_heldout"]

_FEWEST_ROWS = 20
_MOST_HELDOUT = 256


def drop_duplicates(rows: Sequence[Conversation]) -> tuple[list[Conversation], int]:
    """Return the rows without repetitions, first occurrences kept, and how many were dropped."""
    distinct: dict[str, Conversation] = {}
    for row in rows:
        distinct.setdefault(row_identity(row), row)
    return list(distinct.values()), len(rows) - len(distinct)


def split_heldout(
    rows: Sequence[Conversation], share: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """Return training and held-out rows, each in the order given.

    A row's side follows from its content and ``seed`` alone, so it stays where it is when the file grows. Of fewer than
    20 rows none is held out, and never more than 256: more would cost training time and tell nothing new.
    """
    if len(rows) < _FEWEST_ROWS:
        return list(rows), []
    train: list[Conversation] = []
    heldout: list[Conversation] = []
    for row in rows:
        out = _place(row, seed) < share and len(heldout) < _MOST_HELDOUT
        (heldout if out else train).append(row)
    return (train, heldout) if train else (list(rows), [])


def _place(row: Conversation, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{row_identity(row)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
