"""Answers from a stack, one message at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lamina.data.render import Renderer
from lamina.errors import DataError
from lamina.infer.generate import greedy_answers, stream_tokens
from lamina.ops.feedback import Answered, Winner, save_correction, save_vote
from lamina.ops.project import Project
from lamina.records import Message
from lamina.stack.layers import stack_digest
from lamina.stack.manifest import StackConfig

__all__ = ["Chat", "answer", "stream_answer"]


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


class Chat:
    """A conversation with stacks of one project: what was said, and what people say about it.

    Attributes:
        stack: the stack that answers, as it was typed.
        messages: the conversation so far.
    """

    def __init__(
        self,
        project: Project,
        stack: str,
        *,
        system: str | None = None,
        force: bool = False,
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> None:
        """Start a conversation.

        Args:
            project: the open project.
            stack: a stack expression.
            system: the system message, if there is one.
            force: load layers also on a parent that they were not trained on.
            max_tokens: longest answer.
            temperature: 0 always takes the likeliest token.
            seed: of temperatures above 0.

        Raises:
            StackError: if there is no such stack, or its layers do not fit.
        """
        self._project, self._force = project, force
        self._sampling = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        self._start = [Message("system", system)] if system else []
        self.messages = list(self._start)
        self.stack = stack
        self.switch(stack)

    def switch(self, stack: str) -> None:
        """Let ``stack`` answer from now on, in a new conversation.

        Raises:
            StackError: if there is no such stack, or its layers do not fit; then everything stays as it was.
        """
        self._activate(stack)
        self.stack = stack
        self.restart()

    def restart(self) -> None:
        """Forget what was said."""
        self.messages = list(self._start)

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer in pieces. What was said until the iterator is closed stays in the conversation."""
        self.messages.append(Message("user", question))
        said: list[str] = []
        self._activate(self.stack)
        try:
            for piece in stream_answer(self._project, self.messages, **self._sampling):  # type: ignore[arg-type]
                said.append(piece)
                yield piece
        finally:
            if said:
                self.messages.append(Message("assistant", "".join(said)))
            else:
                self.messages.pop()

    def answer_again(self, stack: str) -> Iterator[str]:
        """Yield what ``stack`` answers to the last question; the conversation stays as it is.

        Raises:
            DataError: if nothing has been asked yet.
            StackError: if there is no such stack, or its layers do not fit.
        """
        self._activate(stack)
        yield from stream_answer(self._project, self.prompt(), **self._sampling)  # type: ignore[arg-type]

    def prompt(self) -> list[Message]:
        """Return the messages up to the last question.

        Raises:
            DataError: if nothing has been asked yet.
        """
        if not any(message.role == "user" for message in self.messages):
            raise DataError("conversation", "nothing has been asked yet", hint="ask something first")
        return self.messages[:-1] if self.messages[-1].role == "assistant" else list(self.messages)

    def vote(self, a: tuple[str, str], b: tuple[str, str], winner: Winner) -> bool:
        """Save which of two answers to the last question is better; each is a stack and its text. True if it was new.

        Raises:
            DataError: if an answer is empty.
        """
        return save_vote(self._project.store, self.prompt(), self._answered(*a), self._answered(*b), winner)

    def correct(self, wanted: str | None) -> bool:
        """Save what the last answer should have been (None: what it was), and go on from there. True if it was new.

        Raises:
            DataError: if there is no answer yet, or nothing is wanted.
        """
        if not self.messages or self.messages[-1].role != "assistant":
            raise DataError("conversation", "there is no answer yet", hint="ask something first")
        said = self.messages[-1].content
        wanted = said if wanted is None else wanted
        new = save_correction(self._project.store, self.prompt(), wanted, self._answered(self.stack, said))
        self.messages[-1] = Message("assistant", wanted.strip())
        return new

    def _answered(self, stack: str, text: str) -> Answered:
        return Answered(model=stack, digest=stack_digest(self._project.stack(stack)), text=text)

    def _activate(self, stack: str) -> None:
        self._project.activate(self._project.stack(stack), force=self._force)
