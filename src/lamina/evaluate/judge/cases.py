"""What is put before a judge: two answers to one question, shown in both orders, or one answer by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.evaluate.judge.asking import Question, Reply
from lamina.evaluate.judge.prompts import ask_for_choice, ask_for_rating
from lamina.evaluate.judge.verdict import read_choice, read_rating

__all__ = ["Case", "PairVerdict", "Rated", "choice_questions", "rating_questions", "read_pairs", "read_ratings"]

_EXCERPT = 120


@dataclass(frozen=True, slots=True)
class Case:
    """One question with the answers of two stacks. ``reference`` may be empty."""

    name: str
    question: str
    a: str
    b: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class PairVerdict:
    """What the judge said of a case: of stack ``a`` beside ``b``, shown first and shown second.

    Attributes:
        a_first: 1 if a wins when it is shown first, -1 if b does, 0 for a tie; None without a verdict.
        a_second: the same when a is shown second.
        problems: why a verdict is missing.
    """

    name: str
    a_first: int | None
    a_second: int | None
    problems: tuple[str, ...] = ()

    @property
    def value(self) -> float | None:
        """1 if a wins in both orders, 0 if b does, 0.5 for everything else; None if a verdict is missing.

        Source: Zheng et al. 2023, arXiv:2306.05685, section 3.4: verdicts that change with the order are ties.
        """
        if self.a_first is None or self.a_second is None:
            return None
        return (self.a_first + 1) / 2 if self.a_first == self.a_second else 0.5


@dataclass(frozen=True, slots=True)
class Rated:
    """The judge's grade of one answer, 1 to 10; None without one, and then why."""

    name: str
    rating: float | None
    problem: str = ""


def choice_questions(cases: Sequence[Case]) -> list[Question]:
    """Return two questions for each case: a shown first, then b shown first."""
    questions = []
    for case in cases:
        for order, first, second in (("a first", case.a, case.b), ("b first", case.b, case.a)):
            messages = ask_for_choice(case.question, first, second, case.reference)
            questions.append(Question(f"{case.name} ({order})", messages))
    return questions


def read_pairs(cases: Sequence[Case], replies: Sequence[Reply]) -> list[PairVerdict]:
    """Return the verdicts in the replies to ``choice_questions(cases)``."""
    places = {"first": 1, "second": -1, "tie": 0}
    verdicts = []
    for case, one, other in zip(cases, replies[::2], replies[1::2], strict=True):
        problems: list[str] = []
        sides: list[int | None] = []
        for order, reply in (("a first", one), ("b first", other)):
            choice = read_choice(reply.text) if reply.text is not None else None
            if choice is None:
                problems.append(_why(f"{case.name} ({order})", reply))
            sides.append(None if choice is None else places[choice])
        a_first, b_first = sides
        verdicts.append(PairVerdict(case.name, a_first, None if b_first is None else -b_first, tuple(problems)))
    return verdicts


def rating_questions(answers: Sequence[tuple[str, str, str, str]]) -> list[Question]:
    """Return a question for each (name, question, answer, reference)."""
    return [Question(name, ask_for_rating(question, answer, ref)) for name, question, answer, ref in answers]


def read_ratings(questions: Sequence[Question], replies: Sequence[Reply]) -> list[Rated]:
    """Return the grades in the replies."""
    rated = []
    for question, reply in zip(questions, replies, strict=True):
        rating = read_rating(reply.text) if reply.text is not None else None
        rated.append(Rated(question.name, rating, "" if rating is not None else _why(question.name, reply)))
    return rated


def _why(name: str, reply: Reply) -> str:
    if reply.text is None:
        return reply.problem
    flat = " ".join(reply.text.split())
    said = flat if len(flat) <= _EXCERPT else f"…{flat[-_EXCERPT:]}"
    return f"{name}: no verdict in the reply: {said!r}"
