"""How far two forms of a model lie apart where it matters: in their logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.data.pack import pack_rows
from lamina.model.base import LoadedBase
from lamina.model.head import Head
from lamina.records import Tick, TokenRow

__all__ = ["LogitDrift", "Look", "logit_drift", "look"]

_PACK_TOKENS = 2048
_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Look:
    """What a model makes of some rows: hidden states (N, width) in front of every trained token, and those tokens."""

    states: Tensor
    targets: Tensor

    def loss(self, head: Head) -> float:
        """Return the mean cross-entropy in nats per trained token."""
        return -float(head.log_probs(self.states, self.targets).mean())


@dataclass(frozen=True, slots=True)
class LogitDrift:
    """How far logits lie apart over ``tokens`` positions.

    Attributes:
        relative_error: norm of the difference over the norm of the first.
        mean_error, max_error: absolute differences of single logits.
        agreement: share of positions with the same likeliest token, 0..1.
    """

    tokens: int
    relative_error: float
    mean_error: float
    max_error: float
    agreement: float


@torch.no_grad()
def look(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None = None) -> Look:
    """Return what ``base``, with its attached layers, makes of ``rows``. ``tick`` advances by one per row."""
    states: list[Tensor] = []
    targets: list[Tensor] = []
    for indices in pack_rows([len(row.ids) for row in rows], _PACK_TOKENS):
        found, pack = base.last_states([rows[index] for index in indices])
        states.append(found)
        targets.append(pack.targets)
        if tick is not None:
            tick(len(indices))
    return Look(torch.cat(states), torch.cat(targets))


@torch.no_grad()
def logit_drift(head: Head, before: Look, after: Look) -> LogitDrift:
    """Return how far ``after`` lies from ``before``, a block of logits at a time; both are of the same rows."""
    squares = lost = total = largest = same = 0.0
    for old, new in zip(before.states.split(_BLOCK), after.states.split(_BLOCK), strict=True):
        was, now = head.logits(old).double(), head.logits(new).double()
        gap = (now - was).abs()
        squares += float(was.square().sum())
        lost += float(gap.square().sum())
        total += float(gap.sum())
        largest = max(largest, float(gap.max()))
        same += float((was.argmax(1) == now.argmax(1)).sum())
    count = len(before.states)
    logits = count * head.weight.shape[0]
    return LogitDrift(count, (lost / squares) ** 0.5 if squares else 0.0, total / logits, largest, same / count)
