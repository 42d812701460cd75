"""Folders of FastChat reviews: who was compared with whom on which question, and what the judge gave each.

A review is a row of ``review_A_B.jsonl``: a question, two answers by id, and ``score``, two numbers from 0 to 10. The
models come from ``answer/answer_*.jsonl`` and ``model.jsonl``, which lie in the folder or up to two above it, else from
the review's file name.

Source: FastChat's ``fastchat/eval`` of March 2023, which the Vicuna chart was drawn from.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamina.errors import DataError

__all__ = ["BadRow", "Review", "Reviews", "read_reviews"]

_FOLDERS_ABOVE = 2
_REVIEWS = "review_*.jsonl"
_TOP_SCORE = 10.0


@dataclass(frozen=True, slots=True)
class Review:
    """What the judge gave two models' answers to one question. ``first`` was shown first."""

    question: str
    first: str
    second: str
    first_score: float
    second_score: float


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that counts nowhere: its file, its row from 1 (0: the row is not there), and what is wrong with it."""

    file: str
    row: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.problem}" if self.row else f"{self.file}: {self.problem}"


@dataclass(frozen=True, slots=True)
class Reviews:
    """The usable reviews of a folder, and every row that is not."""

    reviews: tuple[Review, ...]
    bad: tuple[BadRow, ...]

    @property
    def models(self) -> tuple[str, ...]:
        """The models' names, sorted."""
        return tuple(sorted({name for review in self.reviews for name in (review.first, review.second)}))


@dataclass(frozen=True, slots=True)
class _Names:
    """Models' ids by answer id and by the name in ``answer_NAME.jsonl``, and the names that ids stand for."""

    by_answer: Mapping[str, str]
    by_file: Mapping[str, str]
    titles: Mapping[str, str]


def read_reviews(folder: Path) -> Reviews:
    """Return all reviews in ``folder`` and the folders below it.

    Raises:
        DataError: if there is no review file, no usable row, or no way to tell whose answers a file compares.
    """
    files = sorted(folder.rglob(_REVIEWS))
    if not files:
        problem = "holds no review_*.jsonl" if folder.is_dir() else "is not a folder"
        raise DataError(folder, problem, hint="expected FastChat reviews, one file for each pair: review_A_B.jsonl")
    homes = [folder, *list(folder.absolute().parents)[:_FOLDERS_ABOVE]]
    names = _read_names(homes)
    asked = _read_questions(homes)
    good: list[Review] = []
    bad: list[BadRow] = []
    for path in files:
        _read_file(path, str(path.relative_to(folder)), names, asked, good, bad)
    if not good:
        raise DataError(folder, f"none of its {len(bad)} rows can be used; the first: {bad[0]}", hint="mend the rows")
    return Reviews(_titled(good, names.titles), tuple(bad))


def _read_file(
    path: Path, title: str, names: _Names, asked: frozenset[str], good: list[Review], bad: list[BadRow]
) -> None:
    """Add a file's rows to ``good`` and ``bad``; a question that it should hold and does not is a bad row too."""
    records = list(_records(path))
    seen: set[tuple[str, frozenset[str]]] = set()
    for number, record in records:
        problem = record if isinstance(record, str) else _problem(record)
        if problem is None and isinstance(record, dict):
            review = _review(record, path, names)
            pair = (review.question, frozenset((review.first, review.second)))
            if pair not in seen:
                seen.add(pair)
                good.append(review)
                continue
            problem = f"question {review.question} is reviewed a second time"
        bad.append(BadRow(title, number, problem or ""))
    # Rows that are there and bad have been named; these are not there at all.
    there = {str(record["question_id"]) for _, record in records if isinstance(record, dict) and _has_question(record)}
    missing = sorted(asked - there, key=lambda name: (len(name), name))
    bad += [BadRow(title, 0, f"question {question} is missing") for question in missing]


def _problem(record: dict[str, Any]) -> str | None:
    """Return what keeps a row from being counted, None if nothing does."""
    if not _has_question(record):
        return "no question_id"
    score = record.get("score")
    if score is None:
        return "no score"
    if not isinstance(score, list) or len(score) != 2 or not all(_is_number(value) for value in score):
        return f"score is {json.dumps(score)}; expected two numbers"
    if any(value == -1 for value in score):
        return "score is -1: the judge's reply could not be read"
    if not all(0 <= value <= _TOP_SCORE for value in score):
        return f"score is {json.dumps(score)}; expected 0 to 10"
    return None


def _review(record: dict[str, Any], path: Path, names: _Names) -> Review:
    known = [names.by_answer.get(str(record.get(key))) for key in ("answer1_id", "answer2_id")]
    first, second = known if all(known) else _named_in_file(path, names)
    if first == second:
        raise DataError(path, f"compares '{first}' with itself", hint="mend the answer ids")
    left, right = record["score"]
    return Review(str(record["question_id"]), first or "", second or "", float(left), float(right))


def _named_in_file(path: Path, names: _Names) -> tuple[str, str]:
    """Return the two models in ``review_A_B.jsonl``; names that hold underscores must be known from ``answer/``."""
    parts = path.stem.removeprefix("review_").split("_")
    splits = [("_".join(parts[:cut]), "_".join(parts[cut:])) for cut in range(1, len(parts))]
    if len(splits) > 1:
        splits = [pair for pair in splits if all(name in names.by_file for name in pair)]
    if len(splits) != 1:
        raise DataError(
            path,
            "its name does not tell which two models it compares; expected review_A_B.jsonl",
            hint="put the answers beside it as answer/answer_A.jsonl, or rename it",
        )
    first, second = splits[0]
    return names.by_file.get(first, first), names.by_file.get(second, second)


def _read_names(homes: Sequence[Path]) -> _Names:
    titles: dict[str, str] = {}
    by_answer: dict[str, str] = {}
    by_file: dict[str, str] = {}
    for path in _nearest(homes, "model.jsonl"):
        for _, record in _records(path):
            if isinstance(record, dict) and "model_name" in record:
                titles[str(record.get("model_id"))] = str(record["model_name"])
    for path in _nearest(homes, "answer/answer_*.jsonl"):
        for _, record in _records(path):
            if isinstance(record, dict) and "model_id" in record:
                by_answer[str(record.get("answer_id"))] = str(record["model_id"])
                by_file.setdefault(path.stem.removeprefix("answer_"), str(record["model_id"]))
    return _Names(by_answer, by_file, titles)


def _titled(reviews: Sequence[Review], titles: Mapping[str, str]) -> tuple[Review, ...]:
    """Return the reviews with names for ids, except where two models that were compared share a name."""
    used = {identity for review in reviews for identity in (review.first, review.second)}
    shared = Counter(titles.get(identity, identity) for identity in used)
    called = {
        identity: titles[identity] if shared[titles.get(identity, identity)] == 1 and identity in titles else identity
        for identity in used
    }
    return tuple(replace(review, first=called[review.first], second=called[review.second]) for review in reviews)


def _read_questions(homes: Sequence[Path]) -> frozenset[str]:
    """Return the ids in ``question.jsonl``, if there is one: what every file of reviews should hold."""
    return frozenset(
        str(record["question_id"])
        for path in _nearest(homes, "question.jsonl")
        for _, record in _records(path)
        if isinstance(record, dict) and _has_question(record)
    )


def _nearest(homes: Sequence[Path], pattern: str) -> list[Path]:
    return next((found for home in homes if (found := sorted(home.glob(pattern)))), [])


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield row number and row; a row that is not a JSON object comes as the text of what is wrong with it."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(path, f"cannot be read: {error.strerror}", hint="check the path") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            yield number, "broken JSON"
            continue
        yield number, record if isinstance(record, dict) else "not a JSON object"


def _has_question(record: dict[str, Any]) -> bool:
    return isinstance(record.get("question_id"), str | int)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
