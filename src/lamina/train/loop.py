"""The training loop: a generator of ``StepRecord``s. Printing, checkpointing and charting consume it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch

from lamina.config import Recipe
from lamina.data.pack import pack_rows
from lamina.lora.adapter import scale_of
from lamina.lora.surgery import set_trained
from lamina.model.base import LoadedBase
from lamina.records import StepRecord, TokenRow
from lamina.train.schedule import learning_rate, plan_steps
from lamina.train.state import TrainState

__all__ = ["mean_loss", "train_steps"]


def train_steps(base: LoadedBase, state: TrainState, rows: Sequence[TokenRow], recipe: Recipe) -> Iterator[StepRecord]:
    """Train ``state`` on ``rows`` over whatever layers are attached to ``base``, one record per optimiser step.

    The loss of a step is the mean over all its trained tokens, however it is cut into packs (law 5). The loop starts
    after ``state.step``, so that a loaded checkpoint goes on where it was written.

    Raises:
        FloatingPointError: if the loss is not finite.
    """
    steps = plan_steps(len(rows), batch_rows=recipe.batch_rows, epochs=recipe.epochs, seed=recipe.seed)
    set_trained(base.model, state.pairs, scale_of(recipe.rank, recipe.alpha, rslora=recipe.rslora))
    for number in range(state.step + 1, len(steps) + 1):
        started = time.perf_counter()
        chosen = [rows[index] for index in steps[number - 1]]
        loss = accumulate(base, state, chosen)
        rate = learning_rate(
            number, len(steps), peak=recipe.learning_rate, warmup=recipe.warmup, final_rate=recipe.final_rate
        )
        norm = state.update(learning_rate=rate, weight_decay=recipe.weight_decay, clip=recipe.clip)
        yield StepRecord(
            step=number,
            steps=len(steps),
            loss=loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(len(row.ids) for row in chosen),
            trained_tokens=sum(row.trained_count for row in chosen),
            elapsed_s=time.perf_counter() - started,
        )


@torch.no_grad()
def mean_loss(base: LoadedBase, rows: Sequence[TokenRow], micro_tokens: int) -> float:
    """Return the mean cross-entropy, in nats per trained token, of ``rows`` under ``base`` as it is now."""
    total = 0.0
    for chosen in pack_rows([len(row.ids) for row in rows], micro_tokens):
        states, pack = base.last_states([rows[index] for index in chosen])
        total += float(base.head.loss_sum(states, pack.targets))
    return total / sum(row.trained_count for row in rows)


def _accumulate(base: LoadedBase, rows: Sequence[TokenRow], micro_tokens: int) -> float:
    trained = sum(row.trained_count for row in rows)
    total = 0.0
    for chosen in pack_rows([len(row.ids) for row in rows], micro_tokens):
        states, pack = base.last_states([rows[index] for index in chosen])
        loss = base.head.loss_sum(states, pack.targets) / trained
        loss.backward()
        total += float(loss.detach())
    if not torch.isfinite(torch.tensor(total)):
        raise FloatingPointError(f"the loss became {total}")
    return total
