"""Suites: evaluation items and how they are scored. A wrong file is refused with file and row, never half used."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamina.config import SuiteSettings
from lamina.data.read import Records, parse_rows, read_records
from lamina.errors import DataError
from lamina.evaluate.extract import find_number
from lamina.evaluate.instructions import check_instructions
from lamina.evaluate.scorers import Rules, find_scorer, is_call
from lamina.evaluate.similarity import require_similarity
from lamina.records import Conversation, Message
from lamina.refs import Digest

__all__ = ["Item", "Suite", "load_suite", "suite_of_rows"]

# What a score follows from besides the suite: raised when scoring itself changes, so that old results count no more.
_SCORING = 2
_IDS = ("id", "key", "question_id")


@dataclass(frozen=True, slots=True)
class Item:
    """One item: what the model is asked, the reference answer, and the choices if it is multiple choice.

    ``cluster`` names what the item shares with others, such as a template or a passage; empty if nothing.
    """

    prompt: tuple[Message, ...]
    reference: str
    choices: tuple[str, ...] = ()
    gold: int = 0
    cluster: str = ""

    def solved(self) -> tuple[Message, ...]:
        """Return the item as turns, its answer included."""
        return (*self.prompt, Message("assistant", self.reference))


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A named set of items with its scorer.

    Attributes:
        name: as in the settings.
        scorer: one of ``config.SCORERS``.
        guard: whether no new layer may make it worse.
        max_tokens: longest generated answer.
        items: in the file's order.
        metric: for ``choice``: what decides.
        pattern: for ``regex``.
        template: ``chat``, ``plain`` or None, which leaves it to the scorer.
        shots: solved items in front of every item.
        judge: for ``judged``: which model, and where.
    """

    name: str
    scorer: str
    guard: bool = False
    max_tokens: int = 64
    items: tuple[Item, ...]
    metric: str = "acc_norm"
    pattern: str | None = None
    template: str | None = None
    shots: tuple[Item, ...] = ()
    judge: str = ""

    @property
    def digest(self) -> str:
        """A digest of everything that decides a score, for caches and for comparing like with like."""
        how = [_SCORING, self.scorer, self.max_tokens, self.metric, self.pattern, self.template]
        how += [self.judge] if self.judge else []
        content = [how, *([_plain(item) for item in items] for items in (self.items, self.shots))]
        return str(Digest.of_bytes(json.dumps(content).encode()))

    @property
    def is_plain(self) -> bool:
        """Whether items are asked as running text, without the chat template."""
        if self.template is not None:
            return self.template == "plain"
        return find_scorer(self.scorer).run in ("choice", "text")

    @property
    def rules(self) -> Rules:
        """What the scorer must know besides answer and reference."""
        return Rules(self.pattern or "", tuple(dict.fromkeys(item.reference for item in self.items)))

    @property
    def clusters(self) -> tuple[str, ...]:
        """Each item's cluster, items without one each in their own; empty if no item has one."""
        if not any(item.cluster for item in self.items):
            return ()
        return tuple(f"= {item.cluster}" if item.cluster else f"# {place}" for place, item in enumerate(self.items))

    @property
    def repeated(self) -> int:
        """How many items say what an item before them says."""
        return len(self.items) - len(set(self.items))


def load_suite(name: str, settings: SuiteSettings) -> Suite:
    """Return the suite that the settings describe.

    Raises:
        DataError: if a file cannot be read, its rows do not fit the scorer, or two rows have the same id.
        MachineError: if the scorer's package is not installed.
    """
    require_similarity(settings.scorer)
    items = _read_items(settings.file, settings)
    shots: tuple[Item, ...] = ()
    if settings.shots_file is not None:
        shots = _read_items(settings.shots_file, settings)[: settings.shots]
        if len(shots) < settings.shots:
            raise DataError(settings.shots_file, f"holds {len(shots)} items; expected {settings.shots} shots")
        if same := set(shots) & set(items):
            place = items.index(next(iter(same))) + 1
            raise DataError(settings.shots_file, f"item {place} of {settings.file.name} is one of the shots")
    return Suite(
        name=name,
        scorer=settings.scorer,
        guard=settings.guard,
        max_tokens=settings.max_tokens,
        items=items[: settings.limit],
        metric=settings.metric,
        pattern=settings.pattern,
        template=settings.template,
        shots=shots,
    )


def suite_of_rows(name: str, rows: Sequence[Conversation], scorer: str) -> Suite:
    """Return a suite of rows that are in memory already, for example a layer's held-out rows."""
    return Suite(name=name, scorer=scorer, items=tuple(_item(row, scorer) for row in rows))


def _read_items(file: Path, settings: SuiteSettings) -> tuple[Item, ...]:
    records = read_records(file)
    _refuse_same_ids(file, records)
    items = _parse_items(file, records, settings)
    return tuple(_join_cluster(file, *record, item) for record, item in zip(records.items, items, strict=True))


def _parse_items(file: Path, records: Records, settings: SuiteSettings) -> tuple[Item, ...]:
    if settings.scorer == "choice":
        return tuple(_choice_item(file, *record) for record in records.items)
    if settings.scorer == "instructions":
        return tuple(_instruction_item(file, *record) for record in records.items)
    items = tuple(_item(row, settings.scorer) for row in parse_rows(file, records).rows)
    for (number, _), item in zip(records.items, items, strict=True):
        if settings.scorer == "number" and find_number(item.reference) is None:
            raise DataError(file, f"its answer {item.reference[:40]!r} holds no number", row=number, hint="mend it")
        if settings.scorer == "call" and not is_call(item.reference):
            problem = f"its answer {item.reference[:40]!r} is not a JSON object"
            raise DataError(file, problem, row=number, hint='expected {"name": ..., "arguments": {...}}')
    return items


def _join_cluster(file: Path, number: int, record: dict[str, Any], item: Item) -> Item:
    cluster = record.get("cluster")
    if cluster is None:
        return item
    if isinstance(cluster, bool) or not isinstance(cluster, str | int) or cluster == "":
        raise DataError(
            file, f"its cluster is {cluster!r}; expected a name or a number", row=number, hint="mend the row"
        )
    return replace(item, cluster=str(cluster))


def _refuse_same_ids(file: Path, records: Records) -> None:
    seen: dict[str, int] = {}
    for number, record in records.items:
        key = next((key for key in _IDS if key in record), None)
        if key is None:
            continue
        value = json.dumps(record[key], default=str)
        if value in seen:
            raise DataError(
                file, f"has the {key} {value} of row {seen[value]}", row=number, hint="give every item its own id"
            )
        seen[value] = number


def _item(row: Conversation, scorer: str) -> Item:
    if row.messages:
        return Item(row.messages[:-1], row.messages[-1].content)
    if find_scorer(scorer).run not in ("likelihood", "text"):
        raise DataError(
            row.file,
            f"is plain text; the scorer '{scorer}' expects a question and an answer",
            row=row.row,
            hint='set scorer = "likelihood" or "perplexity"',
        )
    return Item((), row.text)


def _choice_item(file: Path, number: int, record: dict[str, Any]) -> Item:
    query = record.get("query", record.get("question"))
    choices, gold = record.get("choices"), record.get("gold", record.get("answer"))
    if not isinstance(query, str) or not isinstance(choices, list) or gold is None:
        raise DataError(
            file,
            f"its keys are {', '.join(map(repr, record))}; the scorer 'choice' expects query, choices and gold",
            row=number,
            hint="gold is the right choice's place, counted from 0, or its text",
        )
    texts = tuple(str(choice) for choice in choices)
    if len(texts) < 2 or not all(text.strip() for text in texts):
        raise DataError(file, f"has {len(texts)} choices; expected two or more, none of them empty", row=number)
    place = _place(texts, gold)
    if place is None:
        expected = f"a place in {len(choices)} choices, counted from 0, or the text of one"
        raise DataError(file, f"gold is {gold!r}; expected {expected}", row=number, hint="mend the row")
    return Item((Message("user", query),), texts[place], texts, place)


def _place(choices: Sequence[str], gold: Any) -> int | None:
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    if isinstance(gold, int) and not isinstance(gold, bool) and 0 <= gold < len(choices):
        return gold
    return None


def _instruction_item(file: Path, number: int, record: dict[str, Any]) -> Item:
    prompt, ids, arguments = (record.get(key) for key in ("prompt", "instruction_id_list", "kwargs"))
    if not isinstance(prompt, str) or not prompt.strip():
        keys = ", ".join(map(repr, record))
        raise DataError(
            file,
            f"its keys are {keys}; the scorer 'instructions' expects prompt, instruction_id_list and kwargs",
            row=number,
            hint="as IFEval's input_data.jsonl has them",
        )
    problem = check_instructions(ids, arguments)
    if problem is not None:
        raise DataError(file, problem, row=number, hint="mend the row; docs/suites.md lists the instructions")
    assert isinstance(ids, list)
    assert isinstance(arguments, list)
    return Item((Message("user", prompt),), json.dumps(list(zip(ids, arguments, strict=True))))


def _plain(item: Item) -> list[Any]:
    cluster = [item.cluster] if item.cluster else []
    return [[(turn.role, turn.content) for turn in item.prompt], item.reference, item.choices, item.gold, *cluster]
