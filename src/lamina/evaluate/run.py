"""Running a suite on a base with whatever layers are attached."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.data.render import Renderer
from lamina.evaluate.scorers import ANSWER_SCORERS, choice_value, likelihood_value
from lamina.evaluate.statistics import interval
from lamina.evaluate.suites import Item, Suite
from lamina.infer.generate import greedy_answers
from lamina.infer.score import score_rows
from lamina.model.base import LoadedBase
from lamina.records import Conversation, Message, Score, Tick, TokenRow

__all__ = ["run_suite"]


def run_suite(base: LoadedBase, suite: Suite, tick: Tick) -> Score:
    """Return the score of ``base`` on ``suite``. ``tick`` advances by one per item."""
    renderer = Renderer(base.tokenizer, base.template)
    answers: list[str] = []
    if suite.scorer == "choice":
        values = _choose(base, renderer, suite.items, tick)
    elif suite.scorer == "likelihood":
        rows = [renderer.row(_with_answer(item, item.reference), max_length=base.context) for item in suite.items]
        values = [likelihood_value(log_probs) for log_probs in score_rows(base, rows, tick)]
    else:
        answers = _answer(base, renderer, suite, tick)
        score = ANSWER_SCORERS[suite.scorer]
        values = [score(answer, item.reference) for answer, item in zip(answers, suite.items, strict=True)]
    mean, low, high = interval(values)
    return Score(
        suite=suite.name,
        mean=mean,
        low=low,
        high=high,
        n=len(values),
        items_digest=suite.digest,
        values=tuple(values),
        answers=tuple(answers),
    )


def _answer(base: LoadedBase, renderer: Renderer, suite: Suite, tick: Tick) -> list[str]:
    prompts = [renderer.prompt(item.prompt) for item in suite.items]
    guesses = [base.tokenizer.encode(item.reference, add_special_tokens=False) for item in suite.items]
    ids = greedy_answers(base, prompts, max_tokens=suite.max_tokens, guesses=guesses, tick=tick)
    return [renderer.text(answer) for answer in ids]


def _choose(base: LoadedBase, renderer: Renderer, items: Sequence[Item], tick: Tick) -> list[float]:
    rows = [_continuation(base, renderer, item, choice) for item in items for choice in item.choices]
    scores = iter(score_rows(base, rows))
    values = []
    for item in items:
        totals = [sum(next(scores)) for _ in item.choices]
        values.append(choice_value(totals, [len(choice) for choice in item.choices], item.gold))
    tick(len(items))
    return values


def _continuation(base: LoadedBase, renderer: Renderer, item: Item, choice: str) -> TokenRow:
    """Return query and choice as running text, without a template: what the choice suites of the field measure."""
    query = renderer.bos() + base.tokenizer.encode(item.prompt[-1].content, add_special_tokens=False)
    end = base.tokenizer.encode(f" {choice}", add_special_tokens=False)
    return TokenRow((*query, *end), (False,) * len(query) + (True,) * len(end))


def _with_answer(item: Item, answer: str) -> Conversation:
    if not item.prompt:
        return Conversation(text=answer)
    return Conversation((*item.prompt, Message("assistant", answer)))
