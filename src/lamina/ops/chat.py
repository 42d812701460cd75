"""Answers from a stack, one message at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lamina.data.render import Renderer
from lamina.errors import DataError
from lamina.infer.generate import greedy_answers, stream_tokens
from lamina.ops.project import Project
from lamina.records import Message
from lamina.stack.manifest import StackConfig

__all__ = ["answer", "stream_answer"]


def stream_answer(
    project: Project,
    messages: Sequence[Message],
    *,
    max_tokens: int,
    temperature: float,
    seed: int | None = None,
) -> Iterator[str]:
    """Yield the pieces of the active stack's answer as they come; the pieces joined are the answer.

    Raises:
        DataError: if the conversation has outgrown the base's context.
    """
    base = project.loaded
    renderer = Renderer(base.tokenizer, base.template)
    prompt = renderer.prompt(messages)
    room = base.context - len(prompt)
    if room < 1:
        raise DataError("conversation", f"{len(prompt)} tokens; the context is {base.context}", hint="start a new one")
    ids: list[int] = []
    said = ""
    for token in stream_tokens(base, prompt, max_tokens=min(max_tokens, room), temperature=temperature, seed=seed):
        ids.append(token)
        text = renderer.text(ids)
        # A character may be cut across tokens; it is shown once it is whole.
        if not text.endswith("\ufffd"):
            yield text[len(said) :]
            said = text


def answer(project: Project, stack: StackConfig, messages: Sequence[Message], *, max_tokens: int) -> str:
    """Return the greedy answer of ``stack``."""
    base = project.activate(stack)
    renderer = Renderer(base.tokenizer, base.template)
    (ids,) = greedy_answers(base, [renderer.prompt(messages)], max_tokens=max_tokens)
    return renderer.text(ids).strip()
