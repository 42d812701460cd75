"""The training loop: a generator of ``StepRecord``s. Printing, checkpointing and charting consume it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from lamina.config import Recipe
from lamina.lora.adapter import scale_of
from lamina.lora.surgery import set_trained
from lamina.model.base import LoadedBase
from lamina.records import StepRecord, TokenRow
from lamina.train.best import plan_watch
from lamina.train.memory import MicroBatch, PassSizes
from lamina.train.passes import accumulate, parents_of, row_losses
from lamina.train.schedule import learning_rate, plan_steps
from lamina.train.state import TrainState

__all__ = ["train_steps"]


def train_steps(
    base: LoadedBase,
    state: TrainState,
    rows: Sequence[TokenRow],
    recipe: Recipe,
    heldout: Sequence[TokenRow] = (),
    passes: PassSizes = (),
) -> Iterator[StepRecord]:
    """Train ``state`` on ``rows`` over whatever layers are attached to ``base``, one record per optimiser step.

    The loss of a step is the mean over all its trained tokens, however it is cut into packs (law 5). The loop starts
    after ``state.step``, so that a loaded checkpoint goes on where it was written.

    Some of the ``heldout`` rows are measured now and then: the best values are kept in ``state.best``, and the loop
    ends early once ``recipe.patience`` measurements in a row after the first pass were worse than them beyond chance.

    With ``passes`` every step is cut as in the run that they come from, else by the memory that is free now.

    Raises:
        FloatingPointError: if a loss is not finite.
        MachineError: if one row alone needs more memory than there is.
    """
    steps = plan_steps(len(rows), batch_rows=recipe.batch_rows, epochs=recipe.epochs, seed=recipe.seed)
    tokens = sum(len(rows[index].ids) for step in steps for index in step)
    watch = plan_watch(
        heldout,
        tokens=tokens,
        steps=len(steps),
        patience=recipe.patience,
        first_pass=-(-len(rows) // recipe.batch_rows),
    )
    set_trained(base.model, state.pairs, scale_of(recipe.rank, recipe.alpha, rslora=recipe.rslora))
    recorded = dict(passes)
    if state.micro is None:
        state.micro = MicroBatch.recorded(base, passes[0][1]) if passes else MicroBatch.measured(base)
    started = time.perf_counter()
    parents = parents_of(base, rows)
    for number in range(state.step + 1, len(steps) + 1):
        if watch.is_over(state.best):
            return
        state.micro.tokens = recorded.get(number, state.micro.tokens)
        chosen = [rows[index] for index in steps[number - 1]]
        found = accumulate(base, state, chosen, state.micro, parents)
        rate = learning_rate(
            number, len(steps), peak=recipe.learning_rate, warmup=recipe.warmup, final_rate=recipe.final_rate
        )
        norm = state.update(
            learning_rate=rate, weight_decay=recipe.weight_decay, clip=recipe.clip, b_rate=recipe.b_rate
        )
        heldout_loss = _measure(base, state, watch.rows) if number in watch.steps else None
        yield StepRecord(
            step=number,
            steps=len(steps),
            loss=found.loss,
            learning_rate=rate,
            gradient_norm=norm,
            tokens=sum(len(row.ids) for row in chosen),
            trained_tokens=sum(row.trained_count for row in chosen),
            elapsed_s=time.perf_counter() - started,
            heldout_loss=heldout_loss,
            divergence=found.divergence,
            pass_tokens=state.micro.tokens,
        )
        started = time.perf_counter()


def _measure(base: LoadedBase, state: TrainState, rows: Sequence[TokenRow]) -> float:
    """Return the rows' loss in nats per trained token, after ``state`` has compared it with its best."""
    losses = row_losses(base, rows)
    state.compare(losses)
    return sum(losses) / sum(row.trained_count for row in rows)
