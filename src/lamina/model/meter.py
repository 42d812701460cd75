"""How many tokens went through a model, for the ledger of costs."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Meter"]


@dataclass(slots=True)
class Meter:
    """Tokens that were computed, what rows share counted once: ``scored`` forward only, ``trained`` also backward."""

    scored: int = 0
    trained: int = 0

    def count(self, tokens: int, *, backward: bool) -> None:
        """Add a pass."""
        if backward:
            self.trained += tokens
        else:
            self.scored += tokens
