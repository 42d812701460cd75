"""What stacks are asked before a judge compares their answers: a suite's items, rows of a file, FastChat's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.data.read import parse_rows, read_records
from lamina.errors import DataError
from lamina.evaluate.judge.cases import Case
from lamina.evaluate.judge.prompts import show_turns
from lamina.evaluate.suites import Item, suite_of_rows
from lamina.records import Message

__all__ = ["Asked", "cases_of", "of_items", "read_questions"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A conversation to be answered: ``prompt``, then what the user says after each answer.

    ``references`` has one for each answer, or fewer.
    """

    name: str
    prompt: tuple[Message, ...]
    follow_ups: tuple[str, ...] = ()
    references: tuple[str, ...] = ()


def read_questions(path: Path) -> list[Asked]:
    """Return the questions in a file: FastChat's (``question_id`` and ``turns`` or ``text``), or rows of any format.

    Raises:
        DataError: if a row is neither, an id is there twice, or a turn is no text.
    """
    records = read_records(path)
    if not any("question_id" in record for _, record in records.items):
        return of_items(path.stem, suite_of_rows(path.stem, parse_rows(path, records).rows, "exact").items)
    asked: dict[str, Asked] = {}
    for number, record in records.items:
        question = _fastchat(path, number, record)
        if question.name in asked:
            raise DataError(path, f"{question.name} is there a second time", row=number, hint="delete one of them")
        asked[question.name] = question
    return list(asked.values())


def of_items(name: str, items: Sequence[Item]) -> list[Asked]:
    """Return the items of a suite as questions, numbered from 1.

    Raises:
        DataError: if an item is running text, which nobody can answer.
    """
    asked = []
    for number, item in enumerate(items, 1):
        if not item.prompt:
            raise DataError(name, "is plain text; expected a question", row=number, hint="judge another suite")
        asked.append(Asked(f"{name} {number}", item.prompt, references=(item.reference,)))
    return asked


def cases_of(asked: Sequence[Asked], a: Sequence[Sequence[str]], b: Sequence[Sequence[str]]) -> list[Case]:
    """Return a case for each answer; later answers are shown with the conversation that led to them."""
    cases = []
    for question, ours, theirs in zip(asked, a, b, strict=True):
        for turn in range(len(question.follow_ups) + 1):
            name = f"{question.name}, turn {turn + 1}" if question.follow_ups else question.name
            reference = question.references[turn] if turn < len(question.references) else ""
            shown = [_conversation(question, answers, turn) for answers in (ours, theirs)]
            cases.append(Case(name, show_turns(question.prompt), shown[0], shown[1], reference))
    return cases


def _conversation(question: Asked, answers: Sequence[str], last: int) -> str:
    if last == 0:
        return answers[0]
    turns = [Message("assistant", answers[0])]
    for follow_up, answer in zip(question.follow_ups[:last], answers[1 : last + 1], strict=True):
        turns += [Message("user", follow_up), Message("assistant", answer)]
    return show_turns(turns)


def _fastchat(path: Path, number: int, record: dict[str, Any]) -> Asked:
    identity = record.get("question_id")
    turns = record.get("turns", [record.get("text")])
    references = record.get("reference") or []
    if not isinstance(identity, str | int):
        raise DataError(path, "no question_id", row=number, hint="every row of this file needs one")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn for turn in turns):
        raise DataError(path, "expected `turns`, a list of texts, or `text`", row=number, hint="mend the row")
    if not isinstance(references, list) or not all(isinstance(text, str) for text in references):
        raise DataError(path, "reference is not a list of texts", row=number, hint="one for each turn")
    return Asked(f"question {identity}", (Message("user", turns[0]),), tuple(turns[1:]), tuple(references))
