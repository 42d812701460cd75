"""What a serving engine is: token ids in, tokens out, any sum of layers per request over one copy of the base.

Everything that knows about text, chat, HTTP or stacks' names lies above this protocol; everything that knows about
tensors lies below it. Prompts come in as ids because one function renders them for training and serving alike (law 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["Engine", "EngineError", "Generation", "Layers", "RefusedError", "Sampling", "Token", "written_tokens"]

# What is active: pairs of a layer's digest and its scale, bottom first.
Layers = tuple[tuple[str, float], ...]


class EngineError(Exception):
    """The engine cannot answer now; the request that met it gets a 503, the next one may succeed.

    ``lost`` says that the engine is gone for all requests: whoever holds it stops and starts it again.
    """

    def __init__(self, message: str, *, lost: bool = False) -> None:
        """Keep the message, which goes to logs and never to clients."""
        super().__init__(message)
        self.lost = lost


class RefusedError(Exception):
    """The engine can never answer this request, such as one with a grammar it cannot follow; the client reads why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen.

    ``temperature`` 0 is greedy. ``top_logprobs`` is how many alternatives each token reports, None for no
    log-probabilities at all. ``schema`` (JSON Schema) and ``grammar`` (GBNF) bind the answer; at most one is set.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    top_logprobs: int | None = None
    schema: dict[str, Any] | None = None
    grammar: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One answer to be written: the prompt as ids, the layers it is written with, and how."""

    prompt: tuple[int, ...]
    layers: Layers
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """One token of an answer.

    ``finish`` is set on the last one: ``stop`` for the end of a turn (that token has ``id`` None and no text),
    ``length`` when ``max_tokens`` is reached. ``top`` pairs token ids with log-probabilities, likeliest first.
    """

    id: int | None
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    finish: Literal["stop", "length"] | None = None


async def written_tokens(said: asyncio.Queue[Token | Exception]) -> AsyncIterator[Token]:
    """Yield the tokens of an answer that is written elsewhere, up to its last; raise what ended it there."""
    while True:
        item = await said.get()
        if isinstance(item, Exception):
            raise item
        yield item
        if item.finish is not None:
            return


class Engine(Protocol):
    """A model in memory that answers many requests at once."""

    name: str
    context: int

    async def start(self) -> None:
        """Load the base. An engine that was stopped can be started again.

        Raises:
            EngineError: if it cannot be loaded now.
            LaminaError: if it never can, such as a base that is gone.
        """

    async def stop(self) -> None:
        """Let go of everything; answers in flight end with ``EngineError``."""

    def generate(self, request: Generation) -> AsyncIterator[Token]:
        """Yield the answer's tokens as they come; closing the iterator early frees its place at once.

        No two requests of different layers ever share cached keys and values.

        Raises:
            EngineError: if the engine fails on the way.
            RefusedError: if the schema or grammar is nothing it can follow, before the first token.
            LaminaError: if a layer's weights are missing or do not fit the base, before the first token.
        """

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float] | None:
        """Return the mean of the prompt's last hidden states, of unit length; None if this engine has none."""
