"""What a judge's reply says. Prose without a verdict is None, never a guess."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Choice", "read_choice", "read_rating"]

Choice = Literal["first", "second", "tie"]
_CHOICES: dict[str, Choice] = {"A": "first", "B": "second", "C": "tie"}
_LOWEST, _HIGHEST = 1.0, 10.0


def read_choice(reply: str) -> Choice | None:
    """Return the last of ``[[A]]``, ``[[B]]``, ``[[C]]`` in the reply, as the place that it prefers.

    FastChat looks for A first wherever it stands, so a reply that weighs "[[A]] or [[B]]" and ends in B counts for A.
    """
    found = re.findall(r"\[\[\s*([ABC])\s*\]\]", reply)
    return _CHOICES[found[-1]] if found else None


def read_rating(reply: str) -> float | None:
    """Return the last grade in double brackets, else in single ones, as FastChat takes both; None outside 1 to 10."""
    for pattern in (r"\[\[\s*(\d+(?:\.\d+)?)\s*(?:/\s*10\s*)?\]\]", r"\[\s*(\d+(?:\.\d+)?)\s*\]"):
        if found := re.findall(pattern, reply):
            rating = float(found[-1])
            return rating if _LOWEST <= rating <= _HIGHEST else None
    return None
