"""Answers from a stack, one message at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lamina.data.render import Renderer
from lamina.errors import DataError
from lamina.infer.generate import greedy_answers, stream_tokens
from lamina.ops.feedback import Answered, Winner, save_correction, save_vote
from lamina.ops.project import Project
from lamina.ops.router import choose_layers
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
        stack: the stack that answers, as it was typed; the branch if none was.
        messages: the conversation so far.
        picked: the stack that the branch's router picked for the last answer; None if no router was asked.
    """

    def __init__(
        self,
        project: Project,
        stack: str | None = None,
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
            stack: a stack expression, which answers as it is; None means the current branch, through its router.
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
        self.switch(stack)

    def switch(self, stack: str | None = None) -> None:
        """Let ``stack`` answer from now on, in a new conversation: as it is, or None the branch, through its router.

        Raises:
            StackError: if there is no such stack, or its layers do not fit; then everything stays as it was.
        """
        name = stack or self._project.branch
        self._answering = self._activate(self._project.stack(name))
        self.stack, self._is_routed = name, stack is None
        self.restart()

    def restart(self) -> None:
        """Forget what was said."""
        self.messages = list(self._start)
        self.picked: StackConfig | None = None

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer in pieces. What was said until the iterator is closed stays in the conversation."""
        self.messages.append(Message("user", question))
        said: list[str] = []
        try:
            self._answer_here()
            for piece in stream_answer(self._project, self.messages, **self._sampling):  # type: ignore[arg-type]
                said.append(piece)
                yield piece
        finally:
            if said:
                self.messages.append(Message("assistant", "".join(said)))
            else:
                self.messages.pop()

    def answer_again(self, stack: str | None = None) -> Iterator[str]:
        """Yield what ``stack`` answers to the last question, None what answers here; the conversation stays as it is.

        Raises:
            DataError: if nothing has been asked yet.
            StackError: if there is no such stack, or its layers do not fit.
        """
        if stack is None:
            self._answer_here()
        else:
            self._activate(self._project.stack(stack))
        yield from stream_answer(self._project, self.prompt(), **self._sampling)  # type: ignore[arg-type]

    def prompt(self) -> list[Message]:
        """Return the messages up to the last question.

        Raises:
            DataError: if nothing has been asked yet.
        """
        if not any(message.role == "user" for message in self.messages):
            raise DataError("conversation", "nothing has been asked yet", hint="ask something first")
        return self.messages[:-1] if self.messages[-1].role == "assistant" else list(self.messages)

    def vote(self, a: tuple[str | None, str], b: tuple[str | None, str], winner: Winner) -> bool:
        """Save which of two answers to the last question is better and return whether that was new.

        Each is a stack, None for what answers here, and its text.

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
        new = save_correction(self._project.store, self.prompt(), wanted, self._answered(None, said))
        self.messages[-1] = Message("assistant", wanted.strip())
        return new

    def _answered(self, stack: str | None, text: str) -> Answered:
        meant = self._answering if stack is None else self._project.stack(stack)
        return Answered(model=stack or self.stack, digest=stack_digest(meant), text=text)

    def _answer_here(self) -> None:
        """Activate what answers the last question in this conversation."""
        stack = self._project.stack(self.stack)
        self.picked = choose_layers(self._project, stack, self.prompt()) if self._is_routed else None
        self._answering = self._activate(self.picked or stack)

    def _activate(self, stack: StackConfig) -> StackConfig:
        self._project.activate(stack, force=self._force)
        return stack
