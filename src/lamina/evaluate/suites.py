"""Suites: evaluation items and how they are scored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.config import SuiteSettings
from lamina.data.read import read_records, read_rows
from lamina.errors import DataError
from lamina.records import Conversation, Message
from lamina.refs import Digest

__all__ = ["Item", "Suite", "load_suite", "suite_of_rows"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item: what the model is asked, the reference answer, and the choices if it is multiple choice."""

    prompt: tuple[Message, ...]
    reference: str
    choices: tuple[str, ...] = ()
    gold: int = 0


@dataclass(frozen=True, slots=True)
class Suite:
    """A named set of items with its scorer."""

    name: str
    scorer: str
    guard: bool
    max_tokens: int
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """A digest of everything that decides a score, for caches and for comparing like with like."""
        items = [
            [[(turn.role, turn.content) for turn in item.prompt], item.reference, item.choices, item.gold]
            for item in self.items
        ]
        return str(Digest.of_bytes(json.dumps([self.scorer, self.max_tokens, items]).encode()))


def load_suite(name: str, settings: SuiteSettings) -> Suite:
    """Return the suite that the settings describe.

    Raises:
        DataError: if its file cannot be read, or its rows do not fit the scorer.
    """
    if settings.scorer == "choice":
        items = [_choice_item(settings.file, *record) for record in read_records(settings.file).items]
    else:
        items = [_item(row, settings.scorer) for row in read_rows(settings.file).rows]
    return Suite(name, settings.scorer, settings.guard, settings.max_tokens, tuple(items[: settings.limit]))


def suite_of_rows(name: str, rows: Sequence[Conversation], scorer: str) -> Suite:
    """Return a suite of rows that are in memory already, for example a layer's held-out rows."""
    return Suite(name, scorer, False, 64, tuple(_item(row, scorer) for row in rows))


def _item(row: Conversation, scorer: str) -> Item:
    if row.messages:
        return Item(row.messages[:-1], row.messages[-1].content)
    if scorer != "likelihood":
        raise DataError(
            row.file,
            f"is plain text; the scorer '{scorer}' expects a question and an answer",
            row=row.row,
            hint='set scorer = "likelihood"',
        )
    return Item((), row.text)


def _choice_item(file: Path, number: int, record: dict[str, Any]) -> Item:
    query = record.get("query", record.get("question"))
    choices, gold = record.get("choices"), record.get("gold", record.get("answer"))
    if not isinstance(query, str) or not isinstance(choices, list) or not isinstance(gold, int):
        raise DataError(
            file,
            f"its keys are {', '.join(map(repr, record))}; the scorer 'choice' expects query, choices and gold",
            row=number,
            hint="gold is the right choice's place, counted from 0",
        )
    if not 0 <= gold < len(choices):
        raise DataError(file, f"gold is {gold}; expected a place in {len(choices)} choices", row=number)
    texts = tuple(str(choice) for choice in choices)
    return Item((Message("user", query),), texts[gold], texts, gold)
