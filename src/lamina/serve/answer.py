"""One answer on its way: the engine's tokens become pieces of text, with their log-probabilities and exact counts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal, Protocol

from lamina.serve.engine import Generation, Token
from lamina.serve.text import Detokeniser, StopFinder

__all__ = ["Answer", "Piece", "TokenSource", "collect", "write_answer"]

Finish = Literal["stop", "length"]


class TokenSource(Protocol):
    """What answers come from."""

    def generate(self, request: Generation) -> AsyncIterator[Token]:
        """Yield the answer's tokens as they come."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, without special tokens."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that may be shown, the tokens it was made of, and on the last piece how the answer ended."""

    text: str
    tokens: tuple[Token, ...] = ()
    finish: Finish | None = None


@dataclass(slots=True)
class Answer:
    """A whole answer; ``count`` is how many tokens the model wrote, those of a stop string included."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: Finish = "stop"
    count: int = 0

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.count += len(piece.tokens)
        self.finish = piece.finish or self.finish


async def write_answer(source: TokenSource, request: Generation, stops: Sequence[str]) -> AsyncIterator[Piece]:
    """Yield the pieces of one answer; the last one, and only it, has a ``finish``.

    Closing this early, or meeting a stop string, ends the engine's work on it at once.
    """
    detokeniser, finder = Detokeniser(source.decode), StopFinder(stops)
    waiting: list[Token] = []
    async with aclosing(source.generate(request)) as tokens:  # type: ignore[type-var]
        async for token in tokens:
            if token.id is not None:
                waiting.append(token)
                text = finder.push(detokeniser.push(token.id))
                if finder.found:
                    yield Piece(text, tuple(waiting), "stop")
                    return
                if token.finish is None:
                    if text:
                        yield Piece(text, tuple(waiting))
                        waiting = []
                    continue
            else:
                text = ""
            text += finder.push(detokeniser.flush())
            finish: Finish = "stop" if finder.found else token.finish or "stop"
            yield Piece(text if finder.found else text + finder.flush(), tuple(waiting), finish)
            return


async def collect(pieces: AsyncIterator[Piece]) -> Answer:
    """Return the whole answer."""
    answer = Answer()
    async for piece in pieces:
        answer.add(piece)
    return answer
