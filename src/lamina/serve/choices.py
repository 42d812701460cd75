"""The answers to one request: several at once, their pieces as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from lamina.serve.answer import Piece
from lamina.serve.engine import Layers, Sampling
from lamina.serve.gateway import Gateway
from lamina.serve.limits import Ticket

__all__ = ["Work", "write_choices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a request asks for: ``count`` answers to each prompt, all with the same layers."""

    prompts: Sequence[Sequence[int]]
    layers: Layers
    sampling: Sampling
    stops: Sequence[str]
    count: int

    @property
    def prompt_tokens(self) -> int:
        """How many tokens are read."""
        return sum(map(len, self.prompts))


async def write_choices(gateway: Gateway, work: Work) -> AsyncIterator[tuple[int, Piece]]:
    """Yield the pieces of all answers, each with its answer's number: those to the first prompt, the second, ...

    Answers differ by their seeds: the first has the request's own, the next ones those that follow it.

    Raises:
        ApiError: 429, if the queue has no room for all of them.
    """
    for prompt in work.prompts:
        gateway.check_prompt(prompt)
    tickets = gateway.draw(work.layers, len(work.prompts) * work.count)
    try:
        wanted = [(prompt, _seeded(work.sampling, number)) for prompt in work.prompts for number in range(work.count)]
        pieces = [
            gateway.answer(ticket, prompt, sampling, work.stops)
            for ticket, (prompt, sampling) in zip(tickets, wanted, strict=True)
        ]
        async with aclosing(_merge(pieces)) as merged:  # type: ignore[type-var]
            async for item in merged:
                yield item
    finally:
        _give_back(tickets)


def _seeded(sampling: Sampling, number: int) -> Sampling:
    return sampling if sampling.seed is None else replace(sampling, seed=sampling.seed + number)


def _give_back(tickets: Sequence[Ticket]) -> None:
    for ticket in tickets:
        ticket.queue.give_back(ticket)


async def _merge(sources: Sequence[AsyncIterator[Piece]]) -> AsyncIterator[tuple[int, Piece]]:
    """Yield what all sources give, as it comes; the first error ends them all."""
    if len(sources) == 1:
        async with aclosing(sources[0]) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield 0, piece
        return
    said = asyncio.Queue[tuple[int, Piece] | Exception | None]()

    async def pump(index: int, source: AsyncIterator[Piece]) -> None:
        try:
            async with aclosing(source) as pieces:  # type: ignore[type-var]
                async for piece in pieces:
                    said.put_nowait((index, piece))
        except Exception as error:
            said.put_nowait(error)
        else:
            said.put_nowait(None)

    pumps = [asyncio.create_task(pump(index, source)) for index, source in enumerate(sources)]
    try:
        ended = 0
        while ended < len(pumps):
            item = await said.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                ended += 1
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
