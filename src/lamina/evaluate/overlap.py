"""Whether a suite's items were among the rows that layers were trained on: whole rows, and runs of words.

Source: Brown et al. 2020 (arXiv:2005.14165), appendix C: an item is suspect if one of its 13-grams occurs in the
training data; words are lower-case and without punctuation. They went down to 8-grams for suites of short items, and
so do items here that have fewer than 13 words; below 8 words only a whole row counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lamina.data.identity import row_identity
from lamina.evaluate.suites import Item, Suite
from lamina.records import Conversation

__all__ = ["Overlap", "find_overlap"]

_LONG, _SHORT = 13, 8
_WORD = re.compile(r"\w+")
# Alike in items that only share their instructions, and so no sign that an item was seen.
_MOST_ITEMS = 0.1


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of a suite lies in training rows.

    Attributes:
        items: of the suite.
        exact: items that are a row that a layer was trained or measured on.
        ngram: further items of which a run of words stands in a row at hand.
        rows: rows whose words were at hand.
        unseen: trained rows of which only the identity is known here.
    """

    items: int
    exact: int
    ngram: int
    rows: int
    unseen: int

    def describe(self) -> str:
        """Return one line for people."""
        if not self.rows and not self.unseen:
            return "no layer, nothing to overlap with"
        found = f"{self.exact} of {self.items} items are training rows, {self.ngram} more share {_LONG} words with one"
        return found + (f"; {self.unseen} rows are known by identity only" if self.unseen else "")


def find_overlap(suite: Suite, rows: Sequence[Conversation], identities: set[str]) -> Overlap:
    """Return the overlap of a suite with training rows.

    Runs of words that more than a tenth of the items (and more than one) share are the suite's own frame, such as a
    system prompt or an instruction, and do not count.

    Args:
        suite: the suite.
        rows: rows at hand, such as layers' replay samples.
        identities: of all rows that layers were trained or measured on.
    """
    known = identities | {row_identity(row) for row in rows}
    exact = [row_identity(_as_row(item)) in known for item in suite.items]
    seen = {size: {run for row in rows for run in _runs(_row_text(row), size)} for size in (_LONG, _SHORT)}
    own = [_item_runs(suite, item) for item in suite.items]
    counts: dict[tuple[str, ...], int] = {}
    for _, runs in own:
        for run in runs:
            counts[run] = counts.get(run, 0) + 1
    most = max(1, int(_MOST_ITEMS * len(own)))
    near = [any(run in seen[size] and counts[run] <= most for run in runs) for size, runs in own]
    return Overlap(
        items=len(suite.items),
        exact=sum(exact),
        ngram=sum(close and not same for close, same in zip(near, exact, strict=True)),
        rows=len(rows),
        unseen=len(identities - {row_identity(row) for row in rows}),
    )


def _item_runs(suite: Suite, item: Item) -> tuple[int, set[tuple[str, ...]]]:
    answers = () if suite.scorer == "instructions" else (item.reference,)
    words = _words("\n".join([*(turn.content for turn in item.prompt), *answers]))
    size = _LONG if len(words) >= _LONG else _SHORT
    return size, set(_grams(words, size))


def _as_row(item: Item) -> Conversation:
    return Conversation(item.solved()) if item.prompt else Conversation(text=item.reference)


def _row_text(row: Conversation) -> str:
    return "\n".join([*(turn.content for turn in row.messages), row.text])


def _runs(text: str, size: int) -> Iterator[tuple[str, ...]]:
    yield from _grams(_words(text), size)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(words: Sequence[str], size: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(size)), strict=False)
