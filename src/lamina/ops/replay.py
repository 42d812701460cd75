"""Replay: rows of earlier layers, mixed into the training of a new one so that what they taught stays."""

from __future__ import annotations

from collections.abc import Sequence

from lamina.config import Recipe
from lamina.data.identity import row_identity
from lamina.ops.project import Project
from lamina.ops.rows import TrainingData, render_rows, spread, stored_rows, superseded
from lamina.records import Conversation, TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig

__all__ = ["render_replay", "replay_rows"]


def replay_rows(
    project: Project, stack: StackConfig, count: int, newer: Sequence[Conversation] = ()
) -> list[Conversation]:
    """Return ``count`` rows of earlier layers, an equal share of each, spread evenly over its sample.

    Rows whose prompt ``newer``, or a later layer, answers otherwise are left out.
    """
    replaced = superseded(project, stack, newer)
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    kept = [
        [row for row in stored_rows(project.store, layer.replay) if row_identity(row) not in replaced]
        for layer in layers
    ]
    samples = [sample for sample in kept if sample]
    chosen: list[Conversation] = []
    for index, sample in enumerate(samples):
        chosen += spread(sample, count // len(samples) + (index < count % len(samples)))
    return chosen


def render_replay(project: Project, stack: StackConfig, data: TrainingData, recipe: Recipe) -> list[TokenRow]:
    """Return the rows of ``stack``'s layers that are mixed into training on ``data``, rendered."""
    chosen = replay_rows(project, stack, round(recipe.replay * len(data.train)), (*data.train, *data.heldout))
    return render_rows(project, chosen, project.loaded.context)
