"""Many questions to a judge: those answered before come from the journal, the others go out, some at a time."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from lamina.config import JudgeSettings
from lamina.errors import LaminaError
from lamina.evaluate.judge.endpoint import Endpoint, JudgeDownError, NoReplyError, request_body
from lamina.evaluate.judge.journal import Journal, journal_key
from lamina.records import Message, Tick

__all__ = ["Question", "Reply", "ask_all"]

_MOST_IN_A_ROW = 3


@dataclass(frozen=True, slots=True)
class Question:
    """What to ask, and what to call it in messages."""

    name: str
    messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: ``text``, or ``problem`` if nothing did. ``paid`` says whether it was asked for just now."""

    text: str | None
    problem: str = ""
    paid: bool = False


def ask_all(
    settings: JudgeSettings, endpoint: Endpoint, journal: Journal, questions: Sequence[Question], tick: Tick
) -> list[Reply]:
    """Return a reply for each question, in order. A question that gets none is told as such; asking goes on.

    Raises:
        JudgeDownError: if nobody answers, or three questions in a row got no reply. What was answered is kept.
        UsageError: if the judge refuses the key, or knows neither model nor address.
    """
    run = _Run(settings, endpoint, journal, tick)
    with ThreadPoolExecutor(settings.parallel) as pool:
        futures = [pool.submit(run.ask, question) for question in questions]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            # Ctrl-C and errors alike: what has not been sent yet is not sent any more.
            for future in futures:
                future.cancel()
        done = [future for future in futures if not future.cancelled()]
        problem = next((failure for future in done if (failure := future.exception()) is not None), None)
    if problem is None:
        return [future.result() for future in futures]
    if isinstance(problem, LaminaError):
        kept = f"{run.answered} of {len(questions)} verdicts are kept; run the command again to go on"
        problem.hint = f"{problem.hint}; {kept}" if problem.hint else kept
    raise problem


class _Run:
    """What the threads of one run share."""

    def __init__(self, settings: JudgeSettings, endpoint: Endpoint, journal: Journal, tick: Tick) -> None:
        self.answered = 0
        self._settings, self._endpoint, self._journal, self._tick = settings, endpoint, journal, tick
        self._in_a_row = 0
        self._over = False
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Reply:
        """Return the reply to one question; after an error that ends the run nothing is sent any more."""
        if self._over:
            return Reply(None, "not asked")
        try:
            return self._ask(question)
        except BaseException:
            self._over = True
            raise

    def _ask(self, question: Question) -> Reply:
        key = journal_key(self._settings.url, request_body(self._settings, question.messages))
        known = self._journal.find(key)
        if known is not None:
            return self._count(Reply(known))
        try:
            text = self._endpoint.ask(question.messages)
        except NoReplyError as error:
            return self._fail(f"{question.name}: {error}", error)
        self._journal.keep(key, text, about=question.name, model=self._settings.model or "")
        return self._count(Reply(text, paid=True))

    def _count(self, reply: Reply) -> Reply:
        with self._lock:
            self.answered += 1
            if reply.paid:
                self._in_a_row = 0
            self._tick(1)
        return reply

    def _fail(self, problem: str, error: NoReplyError) -> Reply:
        with self._lock:
            self._in_a_row += 1
            in_a_row = self._in_a_row
            self._tick(1)
        if in_a_row >= _MOST_IN_A_ROW:
            raise JudgeDownError(f"the judge fails, {in_a_row} questions in a row: {problem}") from error
        return Reply(None, problem)
