"""Rows through the model: a step's gradient, gathered over as many passes as memory asks for, and plain losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from lamina.data.pack import pack_rows
from lamina.lora.surgery import silenced
from lamina.model.base import LoadedBase
from lamina.records import TokenRow
from lamina.train.memory import MicroBatch, is_out_of_memory
from lamina.train.state import TrainState

__all__ = ["Parents", "StepLoss", "accumulate", "mean_loss", "parents_of", "row_losses"]

# The parent's last hidden states of each row that it teaches: (N, width), in front of every trained token.
Parents = Mapping[TokenRow, Tensor]

_LOOK_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class StepLoss:
    """What a step's rows cost, in nats per trained token, and how far the taught ones are from the parent, if any."""

    loss: float
    divergence: float | None


@torch.no_grad()
def parents_of(base: LoadedBase, rows: Sequence[TokenRow]) -> Parents:
    """Return what the model without the layer in training makes of each row that it teaches, in the CPU's memory.

    It is frozen, so one look serves every pass over the rows. How the rows are cut for it follows from them alone, so
    that neither a step's cut nor a run's resumption leaves a trace.
    """
    taught = list(dict.fromkeys(row for row in rows if row.taught))
    found: dict[TokenRow, Tensor] = {}
    with silenced(base.model):
        for chosen in pack_rows([len(row.ids) for row in taught], _LOOK_TOKENS):
            states, pack = base.last_states([taught[index] for index in chosen])
            parts = states.cpu().split(list(pack.counts))
            found |= {taught[index]: part.clone() for index, part in zip(chosen, parts, strict=True)}
    return found


def accumulate(
    base: LoadedBase,
    state: TrainState,
    rows: Sequence[TokenRow],
    micro: MicroBatch,
    parents: Parents = MappingProxyType({}),
) -> StepLoss:
    """Add the gradient of the rows' mean loss per trained token to ``state.gradient``, and return that loss.

    Of a row with a ``taught`` share, that share of the target is what ``parents`` say of it.

    If memory runs out on the way, the step starts over in smaller passes.

    Raises:
        FloatingPointError: if the loss is not finite.
        MachineError: if one row alone needs more memory than there is.
    """
    while (sums := _try_passes(base, rows, micro, parents)) is None:
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


def _try_passes(
    base: LoadedBase, rows: Sequence[TokenRow], micro: MicroBatch, parents: Parents
) -> tuple[float, float] | None:
    """Return the loss and the taught rows' summed divergence, or None after ``micro`` has backed off."""
    trained = sum(row.trained_count for row in rows)
    total, apart = 0.0, 0.0
    for indices in pack_rows([len(row.ids) for row in rows], micro.tokens):
        chosen = [rows[index] for index in indices]
        try:
            summed, moved = _losses(base, chosen, parents, recompute=micro.recompute)
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


def _losses(base: LoadedBase, rows: Sequence[TokenRow], parents: Parents, *, recompute: bool) -> tuple[Tensor, float]:
    """Return the rows' summed loss, differentiable, and the summed divergence of those that the parent teaches."""
    states, pack = base.last_states(rows, recompute=recompute)
    told = [parents[row] for row in rows if row.taught]
    if not told:
        return base.head.loss_sum(states, pack.targets), 0.0
    counts = torch.tensor(pack.counts, device=base.device)
    shares = torch.tensor([row.taught for row in rows], device=base.device).repeat_interleave(counts)
    taught, alone = (shares > 0).nonzero()[:, 0], (shares == 0).nonzero()[:, 0]
    wanted = torch.cat(told).to(base.device)
    blended, moved = base.head.blended_sum(states[taught], pack.targets[taught], wanted, shares[taught])
    return base.head.loss_sum(states[alone], pack.targets[alone]) + blended, float(moved)
