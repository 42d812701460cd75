"""Prompts as points: the mean of the last hidden states, of unit length, as `serve` gives for embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lamina.data.pack import pack_rows
from lamina.model.base import LoadedBase
from lamina.records import Tick, TokenRow

__all__ = ["embed_prompts"]

_PACK_TOKENS = 2048


@torch.no_grad()
def embed_prompts(base: LoadedBase, prompts: Sequence[Sequence[int]], tick: Tick | None = None) -> NDArray[np.float64]:
    """Return a point for each prompt, (N, width), under ``base`` with whatever is attached.

    The order of the prompts does not matter to the last bit: packs are filled by length and content, not by place.

    Args:
        base: the base.
        prompts: token ids, none of them empty or longer than the context.
        tick: advances by one for each prompt.
    """
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), tuple(prompts[place])))
    # A state is asked for as what predicts the next token, so one more token makes room for the last state.
    rows = [TokenRow((*prompts[place], prompts[place][0]), (False, *(True,) * len(prompts[place]))) for place in order]
    found = np.empty((len(prompts), base.head.weight.shape[1]))
    for chosen in pack_rows([len(row.ids) for row in rows], _PACK_TOKENS):
        states, pack = base.last_states([rows[index] for index in chosen])
        for index, own in zip(chosen, states.double().split(pack.counts), strict=True):
            found[order[index]] = torch.nn.functional.normalize(own.mean(0), dim=0).cpu().numpy()
        if tick is not None:
            tick(len(chosen))
    return found
