"""How much a server takes on, and whose turn it is: a fair queue in front of the engine."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from types import TracebackType

from lamina.serve.engine import Layers
from lamina.serve.errors import ApiError

__all__ = ["FairQueue", "Limits", "Ticket"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one server allows.

    Attributes:
        parallel: answers written at once; more wait.
        queue: answers that may wait; more are turned away (429).
        max_tokens: longest answer in tokens, whatever a request asks for.
        choices: answers that one request may ask for (``n``).
        body_bytes: largest request body.
        timeout_s: longest time for one request, waiting included.
    """

    parallel: int = 8
    queue: int = 64
    max_tokens: int = 4096
    choices: int = 16
    body_bytes: int = 4 * 2**20
    timeout_s: float = 600.0


class FairQueue:
    """Hands out a fixed number of places, to the stacks in turn, so that a busy one cannot starve the others."""

    def __init__(self, places: int, waiting: int) -> None:
        """Start with ``places`` free ones; at most ``waiting`` tickets wait for one."""
        self._places = self._free = places
        self._room = waiting
        self._lines: dict[Layers, deque[Ticket]] = {}

    @property
    def waiting(self) -> int:
        """How many tickets wait."""
        return sum(map(len, self._lines.values()))

    def draw(self, layers: Layers, count: int) -> list[Ticket]:
        """Return ``count`` tickets of one request; each gets its place in its turn.

        Raises:
            ApiError: 429, if that many cannot even wait now; 400, if they never could.
        """
        if count > self._places + self._room:
            most = self._places + self._room
            raise ApiError(400, f"this request asks for {count} answers; this server takes at most {most} at once")
        if count - self._free > self._room - self.waiting:
            raise ApiError(429, "too many requests are waiting; try again in a moment", code="queue_full", retry=True)
        tickets = [Ticket(self, layers) for _ in range(count)]
        self._lines.setdefault(layers, deque()).extend(tickets)
        self._serve()
        return tickets

    def give_back(self, ticket: Ticket) -> None:
        """Free the ticket's place, or its wait for one; a second time nothing happens."""
        if ticket.ended:
            return
        ticket.ended = True
        if ticket.turn.is_set():
            self._free += 1
            self._serve()
        else:
            line = self._lines[ticket.layers]
            line.remove(ticket)
            if not line:
                del self._lines[ticket.layers]

    def _serve(self) -> None:
        while self._free and self._lines:
            layers = next(iter(self._lines))
            line = self._lines.pop(layers)
            line.popleft().turn.set()
            self._free -= 1
            if line:
                self._lines[layers] = line  # behind all others


@dataclass(eq=False, slots=True)
class Ticket:
    """A claim to one place: enter it as a context to wait for the place, leave it to give the place back."""

    queue: FairQueue
    layers: Layers
    turn: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False

    async def __aenter__(self) -> None:
        try:
            await self.turn.wait()
        except BaseException:
            self.queue.give_back(self)  # who leaves while waiting never comes to ``__aexit__``
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.queue.give_back(self)
