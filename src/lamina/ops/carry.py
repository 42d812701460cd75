"""Three ways to get a layer onto another parent, the cheapest first.

    carry      the same factors on the new parent: costs nothing
    realign    a tenth of its steps from those factors on, on its own sample of rows and on answers of the old stack
    retrain    its recorded recipe from the start, on its recorded files or, without them, on its sample

Each gives a candidate or, where bases or rows do not allow it, None; ``place`` measures them.

Source: sequence-level distillation, Kim & Rush 2016, arXiv:1606.07947, section 3.2, with greedy decoding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from lamina.config import Recipe
from lamina.data.render import Renderer
from lamina.infer.generate import greedy_answers
from lamina.lora.adapter import Adapter, load_adapter, rescale
from lamina.lora.surgery import fits
from lamina.ops.measure import HELDOUT, Yardstick, rendered
from lamina.ops.project import Project
from lamina.ops.replay import render_replay, replay_rows
from lamina.ops.rows import TrainingData, prepare_rows, recorded_sides, rehearsable_rows, spread
from lamina.ops.run import Run, run_training
from lamina.ops.sources import has_sources, recorded_rows
from lamina.ops.train import settle
from lamina.records import Conversation, Message, TokenRow
from lamina.refs import Digest
from lamina.stack.layers import stack_digest
from lamina.stack.manifest import Cost, LayerConfig, StackConfig, StackEntry
from lamina.train.memory import PassSizes

__all__ = [
    "REBASE_KEY",
    "Made",
    "Move",
    "Sides",
    "Step",
    "carry",
    "original_steps",
    "realign",
    "realign_steps",
    "recorded_recipe",
    "retrain",
]

Step = Literal["carry", "realign", "retrain"]
REBASE_KEY = "rebase"
# docs/design/rebase.md says why so much.
_SHARE_OF_STEPS = 0.1
_FEWEST_STEPS = 8
_SHARE_OF_RATE = 0.1
_SHARE_DISTILLED = 0.25
_LONGEST_ANSWER = 256


@dataclass(frozen=True, slots=True)
class Sides:
    """The project on the old base and on the new one; the same project where the base stays."""

    old: Project
    new: Project

    def use_old(self) -> Project:
        """Return the old side, the new one's base out of memory."""
        if self.new is not self.old:
            self.new.release()
        return self.old

    def use_new(self) -> Project:
        """Return the new side, the old one's base out of memory."""
        if self.new is not self.old:
            self.old.release()
        return self.new


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A layer, what lies below it now, and what shall."""

    entry: StackEntry
    layer: LayerConfig
    old_below: StackConfig
    new_below: StackConfig
    paths: Sequence[Path] = ()

    @property
    def old_with(self) -> StackConfig:
        """The old stack up to this layer."""
        return self.old_below.model_copy(update={"layers": (*self.old_below.layers, self.entry)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A candidate.

    Attributes:
        adapter: its factors.
        scale: what its place in the stack multiplies them by.
        weights: the file that they lie in, None for those that the layer has already.
        passes: how the run cut its steps.
        rows: what it was trained on, for people.
        cost: what it took.
    """

    adapter: Adapter
    scale: float
    weights: Path | None = None
    passes: PassSizes = ()
    rows: str = ""
    cost: Cost = field(default_factory=partial(Cost.total, ()))


def carry(sides: Sides, move: Move) -> Made | None:
    """Return the layer as it is, if the new base has every linear map that it adapts, of the same widths."""
    new = sides.use_new()
    adapter = load_adapter(new.store.blob_path(move.layer.weights))
    return Made(adapter=adapter, scale=move.entry.scale) if fits(new.loaded.model, adapter) else None


def realign(sides: Sides, move: Move, yardstick: Yardstick) -> Made | None:
    """Return the layer after a short run from where it is, on its own sample and on what the old stack answers.

    None where it cannot be carried, or its sample is not here.
    """
    store, sample = sides.new.store, move.layer.replay
    start = carry(sides, move)
    if start is None or sample is None or not store.has(sample):
        return None
    recipe = recorded_recipe(move.layer)
    total = realign_steps(move.layer) * recipe.batch_rows
    answered, answer_tokens = _distil(sides, move, round(_SHARE_DISTILLED * total))
    new = sides.use_new()
    own = rendered(new.loaded, spread(rehearsable_rows(store, sample), total - len(answered)))
    others = rendered(new.loaded, answered)
    if not own:
        return None
    short = recipe.model_copy(
        update={"epochs": total / (len(own) + len(others)), "learning_rate": recipe.learning_rate * _SHARE_OF_RATE}
    )
    run = Run(
        parent=move.new_below,
        recipe=short,
        rows=(*own, *others),
        heldout=_watched(new, yardstick),
        start=rescale(start.adapter, move.entry.scale),
    )
    said = f"{len(own)} sampled rows" + (f" and {len(others)} answers of the old stack" if others else "")
    return _train(new, move, run, "realign", scale=1.0, rows=said, further_tokens=answer_tokens)


def retrain(sides: Sides, move: Move, yardstick: Yardstick) -> Made | None:
    """Return the layer trained anew by its recipe, on its files if they are here as they were, else on its sample.

    Raises:
        DataError: if the new base's context would cut too much of its rows.
    """
    new, sample = sides.use_new(), move.layer.replay
    recipe = recorded_recipe(move.layer)
    if has_sources(new, move.layer, move.paths):
        held = recorded_sides(new.store, move.layer)
        data = prepare_rows(new, *recorded_rows(new, move.layer, move.paths), recipe, sides=held)
        said = "its files"
    elif rows := tuple(rehearsable_rows(new.store, sample)):
        data = TrainingData((), rows, (), rendered(new.loaded, rows), _watched(new, yardstick))
        said = f"{len(data.train_tokens)} sampled rows, since its files are not here as they were"
    else:
        return None
    replay = render_replay(new, move.new_below, data, recipe)
    recipe, _ = settle(new, data, replay.rows, recipe, {})
    run = Run(
        parent=move.new_below, recipe=recipe, rows=(*data.train_tokens, *replay.rows), heldout=data.heldout_tokens
    )
    return _train(new, move, run, "retrain", scale=move.entry.scale, rows=said, further_tokens=replay.cost.tokens)


def original_steps(layer: LayerConfig) -> int:
    """Return how many steps the layer was first trained for, however often it has been moved since."""
    notes = layer.origin.notes.get(REBASE_KEY) if layer.origin is not None else None
    return int(notes["original_steps"]) if notes else layer.cost.steps


def realign_steps(layer: LayerConfig) -> int:
    """Return how long a realignment is: a tenth of the original steps, but at least eight."""
    return max(_FEWEST_STEPS, round(_SHARE_OF_STEPS * original_steps(layer)))


def _train(new: Project, move: Move, run: Run, step: Step, *, scale: float, rows: str, further_tokens: int = 0) -> Made:
    new.progress.note(f"{move.entry.name}: {step} on {rows}")
    same = [step, move.entry.layer, move.entry.scale, stack_digest(move.new_below), run.recipe.model_dump(mode="json")]
    name = Digest.of_bytes(json.dumps([*same, [row.ids for row in run.rows]]).encode()).short
    folder = new.store.root / "runs" / f"rebase-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    trained = run_training(new, run, folder)
    return Made(
        adapter=load_adapter(trained.weights),
        scale=scale,
        weights=trained.weights,
        passes=trained.passes,
        rows=rows,
        cost=trained.cost.model_copy(update={"tokens": trained.cost.tokens + further_tokens}),
    )


def recorded_recipe(layer: LayerConfig) -> Recipe:
    """Return the recorded recipe; a layer without one was not trained here, and keeps its rank."""
    return Recipe.recorded(layer.recipe) if layer.recipe else Recipe(rank=layer.rank)


def _watched(new: Project, yardstick: Yardstick) -> tuple[TokenRow, ...]:
    # A sample that is trained on as well cannot tell when to stop.
    return rendered(new.loaded, yardstick.rows) if yardstick.kind == HELDOUT else ()


def _distil(sides: Sides, move: Move, count: int) -> tuple[list[Conversation], int]:
    """Return prompts of the skills below with the old stack's greedy answers, and how many tokens that took."""
    samples = [row for row in replay_rows(sides.old, move.old_below, count) if len(row.messages) > 1]
    if not samples:
        return [], 0
    base = sides.use_old().activate(move.old_with)
    renderer = Renderer(base.tokenizer, base.template)
    prompts = [renderer.prompt(row.messages[:-1]) for row in samples]
    guesses = [base.tokenizer.encode(row.messages[-1].content, add_special_tokens=False) for row in samples]
    room = min(_LONGEST_ANSWER, base.context - max(map(len, prompts)))
    if room < 1:
        return [], 0
    with sides.old.progress.stage("old answers", total=len(samples), unit="rows") as tick:
        answers = greedy_answers(base, prompts, max_tokens=room, guesses=guesses, tick=tick)
    # An answer that did not come to its end would teach the new layer to end there.
    rows = [
        Conversation((*row.messages[:-1], Message("assistant", text)), file=row.file, row=row.row)
        for row, ids in zip(samples, answers, strict=True)
        if len(ids) < room and (text := renderer.text(ids).strip())
    ]
    return rows, sum(map(len, prompts)) + sum(map(len, answers))
