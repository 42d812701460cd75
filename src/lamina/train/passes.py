"""Rows through the model: a step's gradient, gathered over as many passes as memory asks for, and a plain loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lamina.data.pack import pack_rows
from lamina.lora.surgery import silenced
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train.memory import MicroBatch, is_out_of_memory
from lamina.train.state import TrainState

__all__ = ["StepLoss", "accumulate", "mean_loss", "row_losses"]

_LOOK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What a step's rows cost, in nats per trained token, and how far the taught ones are from the parent, if any."""

    loss: float
    divergence: float | None


def accumulate(base: LoadedBase, state: TrainState, rows: Sequence[TokenRow], micro: MicroBatch) -> StepLoss:
    """Add the gradient of the rows' mean loss per trained token to ``state.gradient``, and return that loss.

    Of a row with a ``taught`` share, that share of the target is what the model predicts without the layer in training.

    If memory runs out on the way, the step starts over in smaller passes.

    Raises:
        FloatingPointError: if the loss is not finite.
        MachineError: if one row alone needs more memory than there is.
    """
    while (sums := _try_passes(base, rows, micro)) is None:
        state.gradient.zero_()
    total, apart = sums
    if not math.isfinite(total):
        raise FloatingPointError(f"the loss became {total}")
    taught = sum(row.trained_count for row in rows if row.taught)
    return StepLoss(total, apart / taught if taught else None)


@torch.no_grad()
def mean_loss(base: LoadedBase, rows: Sequence[TokenRow]) -> float:
    """Return the mean cross-entropy, in nats per trained token, of ``rows`` under ``base`` as it is now."""
    total = 0.0
    for chosen in pack_rows([len(row.ids) for row in rows], _LOOK_TOKENS):
        states, pack = base.last_states([rows[index] for index in chosen])
        total += float(base.head.loss_sum(states, pack.targets))
    return total / sum(row.trained_count for row in rows)


@torch.no_grad()
def row_losses(base: LoadedBase, rows: Sequence[TokenRow]) -> list[float]:
    """Return each row's summed cross-entropy in nats over its trained tokens, under ``base`` as it is now."""
    losses = [0.0] * len(rows)
    for chosen in pack_rows([len(row.ids) for row in rows], _LOOK_TOKENS):
        states, pack = base.last_states([rows[index] for index in chosen])
        parts = base.head.log_probs(states, pack.targets).split(list(pack.counts))
        for index, part in zip(chosen, parts, strict=True):
            losses[index] = -float(part.sum())
    return losses


def _try_passes(base: LoadedBase, rows: Sequence[TokenRow], micro: MicroBatch) -> tuple[float, float] | None:
    """Return the loss and the taught rows' summed divergence, or None after ``micro`` has backed off."""
    trained = sum(row.trained_count for row in rows)
    total, apart = 0.0, 0.0
    for indices in pack_rows([len(row.ids) for row in rows], micro.tokens):
        chosen = [rows[index] for index in indices]
        try:
            summed, moved = _losses(base, chosen, recompute=micro.recompute)
            loss = summed / trained
            loss.backward()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            micro.back_off(chosen, can_recompute=base.fused is not None)
            return None
        total += float(loss.detach())
        apart += moved
    return total, apart


def _losses(base: LoadedBase, rows: Sequence[TokenRow], *, recompute: bool) -> tuple[Tensor, float]:
    """Return the rows' summed loss, differentiable, and the summed divergence of those that the parent teaches."""
    states, pack = base.last_states(rows, recompute=recompute)
    students = [row for row in rows if row.taught]
    if not students:
        return base.head.loss_sum(states, pack.targets), 0.0
    counts = torch.tensor(pack.counts, device=base.device)
    shares = torch.tensor([row.taught for row in rows], device=base.device).repeat_interleave(counts)
    taught, alone = (shares > 0).nonzero()[:, 0], (shares == 0).nonzero()[:, 0]
    # The teacher is the same model: what it says is computed anew each time, so that no cut of a step leaves a trace.
    with torch.no_grad(), silenced(base.model):
        parents, _ = base.last_states(students)
    blended, moved = base.head.blended_sum(states[taught], pack.targets[taught], parents, shares[taught])
    return base.head.loss_sum(states[alone], pack.targets[alone]) + blended, float(moved)
