"""``lamina judge``: two stacks answer the same questions, a model behind an endpoint says which answers are better."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.data.render import Renderer
from lamina.errors import UsageError
from lamina.evaluate.judge.asking import Question
from lamina.evaluate.judge.cases import Case, choice_questions, rating_questions, read_pairs, read_ratings
from lamina.evaluate.judge.endpoint import Endpoint
from lamina.evaluate.judge.questions import Asked, cases_of, of_items, read_questions
from lamina.evaluate.judge.tally import Graded, Tally, grade, tally
from lamina.infer.generate import greedy_answers
from lamina.ops.asking import ask_judge
from lamina.ops.evaluate import find_suites
from lamina.ops.project import Project
from lamina.ops.results import judge_folder
from lamina.ops.spending import spending
from lamina.records import Message
from lamina.refs import Digest
from lamina.stack.layers import stack_digest
from lamina.stack.manifest import StackConfig
from lamina.stack.store import disk_errors, write_atomically

__all__ = ["Judged", "judge_stacks"]

_FILE_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a judge said of two stacks.

    Attributes:
        stacks: their names, as typed.
        judge: the model that judged.
        outcome: a tally of comparisons, or grades.
        asked: questions that went to the judge now; ``kept`` those whose replies were in the journal.
        too_long: questions that do not fit into the base's context with an answer; they count nowhere else.
    """

    stacks: tuple[str, str]
    judge: str
    outcome: Tally | Graded
    asked: int
    kept: int
    too_long: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        return {
            "stacks": list(self.stacks),
            "judge": self.judge,
            **dataclasses.asdict(self.outcome),
            "asked": self.asked,
            "kept": self.kept,
            "too_long": list(self.too_long),
        }


def judge_stacks(
    project: Project, what: str, names: tuple[str, str], *, single: bool, limit: int | None, max_tokens: int | None
) -> Judged:
    """Return what the project's judge says of two stacks' answers.

    Answers and the judge's replies are kept as they come, so a run that was cut off goes on where it stopped.

    Args:
        project: the open project; ``[judge]`` in its settings names the judge.
        what: a suite of the project, or a file of questions.
        names: two stack expressions.
        single: grade each answer by itself instead of comparing.
        limit: only the first so many questions.
        max_tokens: longest answer; None takes the suite's, or 512 for a file.

    Raises:
        UsageError: if ``what`` is neither suite nor file, or no judge is named.
        MachineError: if the judge is down; what it said before is kept.
    """
    endpoint = Endpoint(project.settings.judge)
    asked, longest = _questions(project, what)
    stacks = [project.stack(name) for name in names]
    tokens = max_tokens or longest
    asked, too_long = _fitting(project, asked[:limit], tokens)
    answers = [_answers(project, stack, name, asked, tokens) for stack, name in zip(stacks, names, strict=True)]
    cases = cases_of(asked, *answers)
    questions = _graded(cases) if single else choice_questions(cases)
    replies = ask_judge(project, endpoint, questions)
    outcome: Tally | Graded
    if single:
        outcome = grade(names, [case.name for case in cases], read_ratings(questions, replies))
    else:
        outcome = tally(cases, read_pairs(cases, replies))
    judged = Judged(
        stacks=names,
        judge=project.settings.judge.model or "",
        outcome=outcome,
        asked=sum(reply.paid for reply in replies),
        kept=sum(reply.text is not None and not reply.paid for reply in replies),
        too_long=tuple(too_long),
    )
    _remember(project, what, judged, stacks)
    return judged


def _questions(project: Project, what: str) -> tuple[list[Asked], int]:
    suites = find_suites(project)
    if what in suites:
        return of_items(what, suites[what].items), suites[what].max_tokens
    if not Path(what).exists():
        raise UsageError(
            f"'{what}' is neither a suite nor a file",
            hint=f"suites here: {', '.join(suites) or 'none'}; or name a file",
        )
    return read_questions(Path(what)), _FILE_MAX_TOKENS


def _fitting(project: Project, asked: Sequence[Asked], max_tokens: int) -> tuple[list[Asked], list[str]]:
    """Return the questions that leave room for all their answers, and the names of the others."""
    base = project.loaded
    renderer = Renderer(base.tokenizer, base.template)
    fitting, too_long = [], []
    for question in asked:
        later = sum(len(base.tokenizer.encode(text)) + max_tokens for text in question.follow_ups)
        fits = len(renderer.prompt(question.prompt)) + max_tokens + later <= base.context
        fitting += [question] if fits else []
        too_long += [] if fits else [question.name]
    if not fitting:
        hint = f"with answers of {max_tokens} tokens; set --max-tokens lower"
        raise UsageError(f"none of {len(too_long)} questions fits into {base.context} tokens", hint=hint)
    return fitting, too_long


def _answers(
    project: Project, stack: StackConfig, name: str, asked: Sequence[Asked], max_tokens: int
) -> list[list[str]]:
    """Return each question's greedy answers, one for each turn, from the disk if they were given before."""
    inputs = [dataclasses.asdict(dataclasses.replace(question, references=())) for question in asked]
    key = Digest.of_bytes(json.dumps([stack_digest(stack), max_tokens, inputs]).encode())
    path = judge_folder(project.store) / "answers" / f"{key.hex}.json"
    if path.exists():
        kept: list[list[str]] = json.loads(path.read_text("utf-8"))
        return kept
    with spending(project, "generate", stack.layers[-1].name if stack.layers else "", stack):
        answers = _generate(project, stack, name, asked, max_tokens)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(answers).encode())
    return answers


def _generate(
    project: Project, stack: StackConfig, name: str, asked: Sequence[Asked], max_tokens: int
) -> list[list[str]]:
    base = project.activate(stack)
    renderer = Renderer(base.tokenizer, base.template)
    talks = [list(question.prompt) for question in asked]
    answers: list[list[str]] = [[] for _ in asked]
    turns = [1 + len(question.follow_ups) for question in asked]
    with project.progress.stage(f"{name} answers", total=sum(turns), unit="answers") as tick:
        for turn in range(max(turns)):
            places = [place for place, last in enumerate(turns) if turn < last]
            if turn:
                for place in places:
                    follow_up = asked[place].follow_ups[turn - 1]
                    talks[place] += [Message("assistant", answers[place][-1]), Message("user", follow_up)]
            prompts = [renderer.prompt(talks[place]) for place in places]
            said = greedy_answers(base, prompts, max_tokens=max_tokens, tick=tick)
            for place, ids in zip(places, said, strict=True):
                answers[place].append(renderer.text(ids).strip())
    return answers


def _graded(cases: Sequence[Case]) -> list[Question]:
    """Return the questions that grade a's and b's answer to each case."""
    return rating_questions(
        [
            (f"{case.name} ({side})", case.question, answer, case.reference)
            for case in cases
            for side, answer in (("a", case.a), ("b", case.b))
        ]
    )


def _remember(project: Project, what: str, judged: Judged, stacks: Sequence[StackConfig]) -> None:
    digests = [stack_digest(stack) for stack in stacks]
    record = judged.to_dict() | {"what": what, "url": project.settings.judge.url, "digests": digests}
    kind = "grades" if isinstance(judged.outcome, Graded) else "comparison"
    name = Digest.of_bytes(json.dumps([what, judged.judge, record["url"], digests]).encode()).hex
    path = judge_folder(project.store) / f"{kind}-{name}.json"
    with disk_errors(path):
        write_atomically(path, json.dumps(record | {"kind": kind}).encode())
