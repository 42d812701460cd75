"""From a conversation to token ids and a loss mask: the one function that train, eval, chat and serve all use (law 2).

The mask is found by prefix rendering (law 1): what the chat template prints up to "the assistant speaks now" is the
prompt; what it prints more, once the answer is there, is trained, the end-of-turn mark included. Prompt and answer are
tokenised apart, because at inference the prompt stands alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jinja2
from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lamina.errors import DataError, StackError
from lamina.records import Conversation, Message, TokenRow

__all__ = ["Renderer", "Tokenizer"]


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that rendering needs."""

    bos_token: str | None
    eos_token: str | None

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the token ids of ``text``."""

    def decode(self, ids: Sequence[int], **kwargs: Any) -> str:
        """Return the text of ``ids``."""


@dataclass(frozen=True, slots=True)
class _Segment:
    text: str
    trained: bool


class Renderer:
    """Renders conversations with one tokenizer and one chat template."""

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        """Compile the template.

        Raises:
            StackError: if it is not valid Jinja.
        """
        self.tokenizer = tokenizer
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _refuse
        self._tools: tuple[Mapping[str, Any], ...] = ()
        try:
            self._template = environment.from_string(template)
            self.takes_tools = "tools" in meta.find_undeclared_variables(environment.parse(template))
        except jinja2.TemplateError as error:
            raise StackError(
                f"the base's chat template is not valid Jinja: {error}", hint="set base.template"
            ) from error

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> Renderer:
        """Return a renderer whose prompts offer ``tools``, for a template that ``takes_tools``."""
        offering = copy.copy(self)
        offering._tools = tuple(tools)
        return offering

    def row(self, conversation: Conversation, *, max_length: int) -> TokenRow:
        """Return the ids and mask of a row of data; every answer in it is trained.

        A row longer than ``max_length`` tokens is cut at its end, and ``lost`` counts the trained tokens cut.

        Raises:
            DataError: if nothing or everything would be trained, or the template rewrites earlier turns.
        """
        file, number = conversation.file, conversation.row
        ids: list[int] = []
        trained: list[bool] = []
        for segment in self._segments(conversation):
            piece = self.tokenizer.encode(segment.text, add_special_tokens=False)
            ids += piece
            trained += [segment.trained] * len(piece)
        if trained:
            trained[0] = False
        lost = sum(trained[max_length:])
        row = TokenRow(tuple(ids[:max_length]), tuple(trained[:max_length]), file, number, lost)
        if row.trained_count == 0:
            reason = f"the answer lies beyond the context of {max_length} tokens" if lost else "no token is trained"
            raise DataError(
                file, f"{reason}; expected an answer the model can learn", row=number, hint="shorten the row"
            )
        return row

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids after which the model answers ``messages``."""
        answered = max((i for i, m in enumerate(messages) if m.role == "assistant"), default=-1)
        segments: list[_Segment] = []
        if answered >= 0:
            segments = self._segments(Conversation(tuple(messages[: answered + 1])))
        done = "".join(segment.text for segment in segments)
        whole = self._text(messages, asking=True)
        segments.append(_Segment(_after(whole, done, "", 0), trained=False))
        return [i for s in segments for i in self.tokenizer.encode(s.text, add_special_tokens=False)]

    def opening(self) -> list[int]:
        """Return the ids that stand in front of the first words of a user, a default system prompt included."""
        mark = "\x00"
        before, found, _ = self._text([Message("user", mark)], asking=True).partition(mark)
        if not found:
            raise StackError("the base's chat template does not print what a user says", hint="set base.template")
        return self.tokenizer.encode(before, add_special_tokens=False)

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def bos(self) -> list[int]:
        """Return the ids that the tokenizer puts in front of every text: one BOS, or nothing."""
        return (
            self.tokenizer.encode(self.tokenizer.bos_token or "", add_special_tokens=False) if self._adds_bos() else []
        )

    def _segments(self, conversation: Conversation) -> list[_Segment]:
        if not conversation.messages:
            return self._plain(conversation.text)
        messages, segments, done = conversation.messages, list[_Segment](), ""
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            asked = self._text(messages[:index], asking=True)
            answered = self._text(messages[: index + 1], asking=False)
            segments.append(_Segment(_after(asked, done, conversation.file, conversation.row), trained=False))
            answer = _after(answered, asked, conversation.file, conversation.row)
            kept = answer.rstrip() if answer.rstrip() != message.content.rstrip() else answer + self._end()
            segments.append(_Segment(kept, trained=True))
            segments.append(_Segment(answer[len(kept) :], trained=False))
            done = answered
        return [segment for segment in segments if segment.text]

    def _plain(self, text: str) -> list[_Segment]:
        start = self.tokenizer.bos_token if self._adds_bos() else ""
        return [_Segment(f"{start or ''}{text}{self._end()}", trained=True)]

    def _adds_bos(self) -> bool:
        # "" has no tokens of its own: whatever comes out, the tokenizer puts in front of (or behind) every text.
        added = self.tokenizer.encode("", add_special_tokens=True)
        return bool(added) and self.tokenizer.decode(added[:1]) == self.tokenizer.bos_token

    def _end(self) -> str:
        return self.tokenizer.eos_token or ""

    def _text(self, messages: Sequence[Message], *, asking: bool) -> str:
        plain = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return self._template.render(
                messages=plain,
                tools=list(self._tools) or None,
                add_generation_prompt=asking,
                bos_token=self.tokenizer.bos_token or "",
                eos_token=self.tokenizer.eos_token or "",
            )
        except jinja2.TemplateError as error:
            raise StackError(f"the base's chat template refuses these messages: {error}") from error


def _after(text: str, prefix: str, file: str, row: int) -> str:
    if not text.startswith(prefix):
        raise DataError(
            file or "conversation",
            "the base's chat template rewrites earlier turns, so prompt and answer cannot be told apart",
            row=row or None,
            hint="split the conversation into one row per answer, or set base.template",
        )
    return text[len(prefix) :]


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
