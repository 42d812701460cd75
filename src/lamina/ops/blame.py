"""``lamina blame``: which layer changed an answer, by leaving out one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lamina.data.render import Renderer
from lamina.errors import DataError
from lamina.infer.generate import greedy_answers
from lamina.infer.score import score_rows
from lamina.lora.adapter import Adapter
from lamina.lora.surgery import attach
from lamina.model.base import LoadedBase
from lamina.ops.project import Project
from lamina.records import Conversation, Message, TokenRow
from lamina.stack.manifest import StackConfig, StackEntry

__all__ = ["Blame", "LeftOut", "blame"]

# bfloat16 rounds a sum of log-probabilities by about this much; what is smaller is nobody's doing.
_LEAST_NATS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """What the stack says without one layer, or without any.

    Attributes:
        entry: the layer left out; None for the base alone.
        log_prob: of the answer in question, in nats.
        change: ``log_prob`` less that of the whole stack: negative if the layer speaks for the answer.
        answer: the greedy answer.
        is_changed: whether that is another than the whole stack's.
    """

    entry: StackEntry | None
    log_prob: float
    change: float
    answer: str
    is_changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Blame:
    """Who is responsible for an answer.

    Attributes:
        answer: the answer in question: what was asked about, else the stack's own.
        own_answer: what the whole stack says.
        log_prob: of the answer under the whole stack, in nats, over ``tokens`` tokens.
        layers: one for each layer, the one that speaks most for the answer first.
        base: no layer at all.
        responsible: the layer whose absence costs the answer most; None if leaving out any one costs it nothing.
    """

    answer: str
    own_answer: str
    log_prob: float
    tokens: int
    layers: tuple[LeftOut, ...]
    base: LeftOut
    responsible: StackEntry | None


@dataclass(frozen=True, slots=True)
class _Question:
    prompt: list[int]
    row: TokenRow
    guess: list[int]
    max_tokens: int


def blame(
    project: Project, stack: StackConfig, messages: Sequence[Message], *, max_tokens: int, answer: str | None = None
) -> Blame:
    """Return how much each layer of ``stack`` speaks for the answer to ``messages``.

    Leaving out one layer at a time does not see layers that can stand in for each other; the base alone does.

    Args:
        project: the open project.
        stack: the stack.
        messages: what it is asked.
        max_tokens: longest answer.
        answer: an answer to explain; None means the stack's own greedy one.

    Raises:
        DataError: if question and answer do not fit into the context, or the answer is empty.
        StackError: if a layer does not belong to this base.
    """
    base = project.activate(stack)
    renderer = Renderer(base.tokenizer, base.template)
    prompt = renderer.prompt(messages)
    room = min(max_tokens, base.context - len(prompt))
    if room < 1:
        raise DataError("prompt", f"{len(prompt)} tokens leave no room in a context of {base.context}", hint="ask less")
    (own,) = greedy_answers(base, [prompt], max_tokens=room)
    row = _row(base, renderer, messages, prompt, own if answer is None else answer, ended=len(own) < room)
    question = _Question(prompt, row, own, room)
    whole = sum(score_rows(base, [row])[0])
    adapters = project.adapters(stack.layers)
    with project.progress.stage("leave one out", total=len(adapters) + 1, unit="stacks") as tick:
        found = []
        for place, entry in enumerate(stack.layers):
            others = [index for index in range(len(adapters)) if index != place]
            found.append(_without(base, renderer, stack, adapters, others, question, whole, entry))
            tick(1)
        alone = _without(base, renderer, stack, adapters, [], question, whole, None)
        tick(1)
    found.sort(key=lambda out: out.change)
    first = found[0] if found and found[0].change <= -_LEAST_NATS else None
    return Blame(
        answer=renderer.text(own).strip() if answer is None else answer,
        own_answer=renderer.text(own).strip(),
        log_prob=whole,
        tokens=row.trained_count,
        layers=tuple(found),
        base=alone,
        responsible=None if first is None else first.entry,
    )


def _without(
    base: LoadedBase,
    renderer: Renderer,
    stack: StackConfig,
    adapters: Sequence[Adapter],
    kept: Sequence[int],
    question: _Question,
    whole: float,
    entry: StackEntry | None,
) -> LeftOut:
    attach(base.model, [adapters[index] for index in kept], [stack.layers[index].scale for index in kept])
    log_prob = sum(score_rows(base, [question.row])[0])
    (ids,) = greedy_answers(base, [question.prompt], max_tokens=question.max_tokens, guesses=[question.guess])
    return LeftOut(
        entry=entry,
        log_prob=log_prob,
        change=log_prob - whole,
        answer=renderer.text(ids).strip(),
        is_changed=ids != question.guess,
    )


def _row(
    base: LoadedBase,
    renderer: Renderer,
    messages: Sequence[Message],
    prompt: list[int],
    answer: str | list[int],
    *,
    ended: bool,
) -> TokenRow:
    """Return prompt and answer with the answer's tokens scored: those generated, or a text's as training has them."""
    text = answer if isinstance(answer, str) else renderer.text(answer)
    row = renderer.row(Conversation((*messages, Message("assistant", text))), max_length=base.context)
    if isinstance(answer, str):
        if row.lost:
            raise DataError("answer", f"{row.lost} tokens too long for the context of {base.context}", hint="cut it")
        return row
    exact = (*prompt, *answer)
    # What was generated may be cut off, or be spelled in other tokens than its text would be.
    if ended and row.ids[: len(exact)] == exact:
        return row
    return dataclasses.replace(row, ids=exact, trained=(False,) * len(prompt) + (True,) * len(answer))
