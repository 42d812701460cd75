"""Replay: rows of earlier layers, mixed into the training of a new one so that what they taught stays."""

from __future__ import annotations

from lamina.config import Recipe
from lamina.ops.project import Project
from lamina.ops.rows import TrainingData, render_rows, spread, stored_rows
from lamina.records import Conversation, TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig

__all__ = ["render_replay", "replay_rows"]


def replay_rows(project: Project, stack: StackConfig, count: int) -> list[Conversation]:
    """Return ``count`` rows of earlier layers, an equal share of each, spread evenly over its sample."""
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    samples = [sample for layer in layers if (sample := stored_rows(project.store, layer.replay))]
    chosen: list[Conversation] = []
    for index, sample in enumerate(samples):
        chosen += spread(sample, count // len(samples) + (index < count % len(samples)))
    return chosen


def render_replay(project: Project, stack: StackConfig, data: TrainingData, recipe: Recipe) -> list[TokenRow]:
    """Return the rows of ``stack``'s layers that are mixed into training on ``data``, rendered."""
    chosen = replay_rows(project, stack, round(recipe.replay * len(data.train)))
    return render_rows(project, chosen, project.loaded.context)
