"""Rows through the model: a step's gradient, gathered over as many passes as memory asks for, and a plain loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lamina.data.pack import pack_rows
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train.memory import MicroBatch, is_out_of_memory
from lamina.train.state import TrainState

__all__ = ["accumulate", "mean_loss"]

_LOOK_TOKENS = 2048


def accumulate(base: LoadedBase, state: TrainState, rows: Sequence[TokenRow], micro: MicroBatch) -> float:
    """Add the gradient of the rows' mean loss per trained token to ``state.gradient``, and return that loss in nats.

    If memory runs out on the way, the step starts over in smaller passes.

    Raises:
        FloatingPointError: if the loss is not finite.
        MachineError: if one row alone needs more memory than there is.
    """
    while (total := _try_passes(base, rows, micro)) is None:
        state.gradient.zero_()
    if not math.isfinite(total):
        raise FloatingPointError(f"the loss became {total}")
    return total


@torch.no_grad()
def mean_loss(base: LoadedBase, rows: Sequence[TokenRow]) -> float:
    """Return the mean cross-entropy, in nats per trained token, of ``rows`` under ``base`` as it is now."""
    total = 0.0
    for chosen in pack_rows([len(row.ids) for row in rows], _LOOK_TOKENS):
        states, pack = base.last_states([rows[index] for index in chosen])
        total += float(base.head.loss_sum(states, pack.targets))
    return total / sum(row.trained_count for row in rows)


def _try_passes(base: LoadedBase, rows: Sequence[TokenRow], micro: MicroBatch) -> float | None:
    """Return the loss, or None after ``micro`` has backed off."""
    trained = sum(row.trained_count for row in rows)
    total = 0.0
    for indices in pack_rows([len(row.ids) for row in rows], micro.tokens):
        chosen = [rows[index] for index in indices]
        try:
            states, pack = base.last_states(chosen, recompute=micro.recompute)
            loss = base.head.loss_sum(states, pack.targets) / trained
            loss.backward()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            micro.back_off(chosen, can_recompute=base.fused is not None)
            return None
        total += float(loss.detach())
    return total
