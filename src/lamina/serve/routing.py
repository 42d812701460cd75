"""What a gateway asks before a branch answers: the branch's router, if it has one.

Routers lie beside ``serve``, so that whoever makes the gateway hands in what finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lamina.serve.stacks import ServedStack

__all__ = ["PromptRouter", "Routing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRouter:
    """Picks some of one stack's layers for each prompt.

    Attributes:
        reads: how many of a prompt's last tokens it goes by.
        pick: returns the stack that answers, from the embedding of those tokens under the bare base.
    """

    reads: int
    pick: Callable[[Sequence[float]], ServedStack]


# Returns the router of a stack that was asked for, None if all its layers answer; raises ``LaminaError`` if the router
# is missing or damaged.
Routing = Callable[[ServedStack], PromptRouter | None]
