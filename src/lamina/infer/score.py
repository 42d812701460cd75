"""Log-probabilities of given answers, packed: no padding, no cache, one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.data.pack import pack_rows
from lamina.model.base import LoadedBase
from lamina.model.packed import hidden_states, make_pack
from lamina.records import Tick, TokenRow

__all__ = ["RowScore", "score_rows"]

_PACK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class RowScore:
    """How the model sees one row's trained tokens.

    Attributes:
        log_probs: log-probability of each, in nats.
        greedy: how many from the first on the model would produce itself, choosing the likeliest each time.
    """

    log_probs: tuple[float, ...]
    greedy: int


@torch.no_grad()
def score_rows(base: LoadedBase, rows: Sequence[TokenRow], tick: Tick | None = None) -> list[RowScore]:
    """Return the score of every row, in order, under ``base`` with the layers that are attached.

    ``tick`` advances by one per row.
    """
    scores: dict[int, RowScore] = {}
    with base.packing():
        for indices in pack_rows([len(row.ids) for row in rows], _PACK_TOKENS):
            pack = make_pack([rows[index] for index in indices], base.device)
            log_probs, matches = base.head.log_probs(hidden_states(base.model, pack), pack.targets)
            parts = zip(indices, log_probs.split(pack.counts), matches.split(pack.counts), strict=True)
            scores |= {index: RowScore(tuple(logs.tolist()), _leading(hits)) for index, logs, hits in parts}
            if tick is not None:
                tick(len(indices))
    return [scores[index] for index in range(len(rows))]


def _leading(hits: Tensor) -> int:
    return int(hits.long().cumprod(0).sum())
