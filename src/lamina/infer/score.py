"""Log-probabilities of given answers, packed: no padding, no cache, one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lamina.data.pack import pack_rows
from lamina.model.base import LoadedBase
from lamina.records import Tick, TokenRow

__all__ = ["score_rows"]

_PACK_TOKENS = 2048


@torch.no_grad()
def score_rows(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None = None) -> list[tuple[float, ...]]:
    """Return the log-probabilities, in nats, of every row's trained tokens, under ``base`` with its attached layers.

    ``tick`` advances by one per row.
    """
    scores: dict[int, tuple[float, ...]] = {}
    for indices in pack_rows([len(row.ids) for row in rows], _PACK_TOKENS):
        states, pack = base.last_states([rows[index] for index in indices])
        parts = zip(indices, base.head.log_probs(states, pack.targets).split(pack.counts), strict=True)
        scores |= {index: tuple(part.tolist()) for index, part in parts}
        if tick is not None:
            tick(len(indices))
    return [scores[index] for index in range(len(rows))]
