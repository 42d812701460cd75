"""The project's judge, asked: for ``lamina judge``, and for suites that are scored by a judge."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lamina.evaluate.judge.asking import Question, Reply, ask_all
from lamina.evaluate.judge.cases import Case, choice_questions, read_pairs
from lamina.evaluate.judge.endpoint import Endpoint
from lamina.evaluate.judge.journal import open_journal
from lamina.evaluate.judge.prompts import show_turns
from lamina.evaluate.run import Judge
from lamina.evaluate.suites import Item
from lamina.ops.project import Project
from lamina.ops.results import judge_folder
from lamina.stack.store import disk_errors

__all__ = ["ask_judge", "judge_name", "suite_judge"]


def judge_name(project: Project) -> str:
    """Return which model judges, and where: part of what a judged score follows from."""
    return f"{project.settings.judge.model or ''} at {project.settings.judge.url}"


def suite_judge(project: Project, suite: str) -> Judge:
    """Return what scores the answers to a ``judged`` suite: 1 where the judge prefers the answer to the reference.

    Both orders are asked; a tie, and a verdict that changes with the order, is one half. What the judge said is kept,
    so that nothing is asked twice; items without a verdict are said and are NaN.

    Raises (the returned function):
        UsageError: if no judge is named in the settings.
        MachineError: if the judge is down; what it said before is kept.
    """

    def judge(items: Sequence[Item], answers: Sequence[str]) -> list[float]:
        endpoint = Endpoint(project.settings.judge)
        cases = [
            Case(f"{suite}: {item.prompt[-1].content[:40]!r}", show_turns(item.prompt), answer, item.reference)
            for item, answer in zip(items, answers, strict=True)
        ]
        verdicts = read_pairs(cases, ask_judge(project, endpoint, choice_questions(cases)))
        for problem in (problem for verdict in verdicts for problem in verdict.problems):
            project.progress.note(problem)
        return [math.nan if verdict.value is None else verdict.value for verdict in verdicts]

    return judge


def ask_judge(project: Project, endpoint: Endpoint, questions: Sequence[Question]) -> list[Reply]:
    """Return a reply for each question, from the project's journal where the judge has answered it before.

    Raises:
        MachineError: if the judge is down; what it said before is kept.
        StackError: if another command is asking the judge.
    """
    settings = project.settings.judge
    path = judge_folder(project.store) / "journal.jsonl"
    project.progress.note(f"{settings.model} at {settings.url} judges")
    with (
        disk_errors(path),
        open_journal(path) as journal,
        project.progress.stage("judge", total=len(questions), unit="verdicts") as tick,
    ):
        return ask_all(settings, endpoint, journal, questions, tick)
