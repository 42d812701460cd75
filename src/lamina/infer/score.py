"""Log-probabilities of given answers, packed: no padding, no cache, one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lamina.data.pack import pack_rows
from lamina.model.base import LoadedBase
from lamina.model.packed import hidden_states, make_pack
from lamina.records import Tick, TokenRow

__all__ = ["score_rows"]

_PACK_TOKENS = 2048


@torch.no_grad()
def score_rows(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None = None) -> list[tuple[float, ...]]:
    """Return the log-probabilities, in nats, of every row's trained tokens, under ``base`` with its attached layers.

    ``tick`` advances by one per row.
    """
    scores: dict[int, tuple[float, ...]] = {}
    with base.packing():
        for indices in pack_rows([len(row.ids) for row in rows], _PACK_TOKENS):
            pack = make_pack([rows[index] for index in indices], base.device)
            log_probs = base.head.log_probs(hidden_states(base.model, pack), pack.targets)
            parts = zip(indices, log_probs.split(pack.counts), strict=True)
            scores |= {index: tuple(part.tolist()) for index, part in parts}
            if tick is not None:
                tick(len(indices))
    return [scores[index] for index in range(len(rows))]
