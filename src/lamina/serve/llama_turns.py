"""Who may compute next, and with whose cache: turns between stacks, and slots that belong to one stack at a time."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from operator import eq

from lamina.serve.engine import Layers

__all__ = ["Slot", "Slots", "Turns"]


class Turns:
    """Lets one kind of work in at a time, as much of it as comes; where several kinds wait, they go round.

    llama.cpp computes answers of one stack together and makes all others wait until those have ended. With work in
    short turns, they wait for a turn.
    """

    def __init__(self) -> None:
        """Begin with nobody in and nobody waiting."""
        self._kind: Hashable = None
        self._inside = 0
        self._lines: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def of(self, kind: Hashable) -> AsyncIterator[None]:
        """Hold a turn for work of ``kind``."""
        if self._inside and (self._lines or kind != self._kind):
            await self._wait(kind)
        else:
            self._kind, self._inside = kind, self._inside + 1
        try:
            yield
        finally:
            self._leave()

    async def _wait(self, kind: Hashable) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(kind, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # the turn had come already
            else:
                self._forget(kind, turn)
            raise

    def _forget(self, kind: Hashable, turn: asyncio.Future[None]) -> None:
        line = self._lines.get(kind)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[kind]

    def _leave(self) -> None:
        self._inside -= 1
        while self._inside == 0 and self._lines:
            self._kind, line = self._lines.popitem(last=False)
            for turn in line:
                if not turn.done():
                    self._inside += 1
                    turn.set_result(None)


@dataclass(slots=True)
class Slot:
    """One place for an answer: the tokens whose keys and values it holds, and the layers they were computed with."""

    index: int
    layers: Layers = ()
    tokens: list[int] = field(default_factory=list)

    def shared(self, layers: Layers, prompt: Sequence[int]) -> int:
        """Return how many of the prompt's first tokens need not be computed again."""
        same = takewhile(bool, map(eq, self.tokens, prompt))
        return sum(same) if layers == self.layers else 0


class Slots:
    """All places; whoever comes first gets the free one that helps most, or else the one unused for longest."""

    def __init__(self, count: int) -> None:
        """Begin with ``count`` empty places."""
        self._free = [Slot(index) for index in range(count)]
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def take(self, layers: Layers, prompt: Sequence[int]) -> AsyncIterator[Slot]:
        """Hold a place for an answer to ``prompt``."""
        while not self._free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._wake()
                elif turn in self._waiting:
                    self._waiting.remove(turn)
                raise
        slot = max(self._free, key=lambda free: free.shared(layers, prompt))  # of equals the first, which is the oldest
        self._free.remove(slot)
        try:
            yield slot
        finally:
            self._free.append(slot)
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
