"""How strongly a new layer counts on its stack: the scale that does best on held-out rows of old and new skills.

Source: a tuned model moved back towards where it came from, Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903. A scale
that grows with depth (LiNeS, arXiv:2410.17146) is among what docs/design/stacking.md tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

from lamina.lora.adapter import Adapter
from lamina.ops.project import Project
from lamina.ops.rows import heldout_sample, render_rows
from lamina.records import TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import Cost, StackConfig
from lamina.train.passes import row_losses

__all__ = ["Strength", "find_strength", "skill_rows", "weigh_change"]

_SCALES = (0.5, 0.75, 1.25)
_FEWEST_ROWS, _MOST_ROWS = 4, 48
_SHARE_OF_TIME = 0.1
# Training a token takes a forward pass and about as much again backward.
_COST_OF_A_TOKEN = 0.5


@dataclass(frozen=True, slots=True)
class Strength:
    """The scale, and what finding it took."""

    scale: float = 1.0
    cost: Cost = field(default_factory=partial(Cost.total, ()))


def find_strength(
    project: Project, parent: StackConfig, adapter: Adapter, heldout: Sequence[TokenRow], *, tokens: int
) -> Strength:
    """Return the scale at which ``adapter`` does best on ``parent``: 1, unless another one surely does better.

    What is made small is the mean, over the new layer's held-out rows and those of each earlier layer, of the loss
    relative to the loss at scale 1. Another scale is taken only if it lowers that by more than one standard error. The
    search takes at most a tenth of the training time: with few rows there is none.

    Args:
        project: the open project.
        parent: what the layer was trained on.
        adapter: its weights.
        heldout: its own held-out rows.
        tokens: how many it was trained on.
    """
    budget = _SHARE_OF_TIME / _COST_OF_A_TOKEN * tokens / (len(_SCALES) + 1)
    sets = skill_rows(project, parent, heldout, budget)
    if not sets:
        return Strength()
    started = time.perf_counter()
    counts = [[row.trained_count for row in rows] for rows in sets]
    losses: dict[float, list[list[float]]] = {}
    with project.progress.stage("scale", total=len(_SCALES) + 1, unit="trials") as tick:
        for scale in (1.0, *_SCALES):
            base = project.activate(parent, top=(adapter, scale), force=True)
            losses[scale] = [row_losses(base, rows) for rows in sets]
            tick(1)
    changes = {scale: weigh_change(losses[1.0], losses[scale], counts) for scale in _SCALES}
    best = min(_SCALES, key=lambda scale: changes[scale][0])
    change, error = changes[best]
    chosen = best if change < -error else 1.0
    project.progress.note(
        f"scale {chosen:g}: at {best:g} old and new skills' held-out loss is {change:+.1%} +- {error:.1%} of that at 1"
    )
    looked = (len(_SCALES) + 1) * sum(len(row.ids) for rows in sets for row in rows)
    return Strength(chosen, Cost(tokens=looked, trained_tokens=0, seconds=time.perf_counter() - started, steps=0))


def skill_rows(
    project: Project, parent: StackConfig, heldout: Sequence[TokenRow], budget: float
) -> list[Sequence[TokenRow]]:
    """Return held-out rows of the new skill and of each earlier layer, evenly spread, within ``budget`` tokens in all.

    Empty where there is nothing to weigh: no held-out rows of the new skill, or of no earlier one, or no room for four.
    """
    layers = [read_layer(project.store, entry.layer) for entry in parent.layers]
    old = [
        render_rows(project, heldout_sample(project, [layer], _MOST_ROWS), project.loaded.context) for layer in layers
    ]
    sets = [rows for rows in (heldout, *old) if len(rows) >= _FEWEST_ROWS]
    if len(heldout) < _FEWEST_ROWS or len(sets) < 2:
        return []
    chosen: list[Sequence[TokenRow]] = []
    for rows in sets:
        a_row = sum(len(row.ids) for row in rows) / len(rows)
        count = min(len(rows), _MOST_ROWS, int(budget / len(sets) / a_row))
        if count < _FEWEST_ROWS:
            return []
        chosen.append([rows[place * len(rows) // count] for place in range(count)])
    return chosen


def weigh_change(
    before: Sequence[Sequence[float]], after: Sequence[Sequence[float]], counts: Sequence[Sequence[int]]
) -> tuple[float, float]:
    """Return the mean over skills of the relative change of loss, and its standard error over rows, paired.

    Args:
        before: for each skill each row's summed loss.
        after: the same with the change.
        counts: for each skill each row's trained tokens.
    """
    changes, variances = [], []
    for old, new, tokens in zip(before, after, counts, strict=True):
        whole, every = sum(old), sum(tokens)
        change = (sum(new) - whole) / whole
        # Of a ratio of sums, to first order: each row's change beyond what its share of tokens would bring.
        mean = (sum(new) - whole) / every
        rest = [b - a - mean * count for a, b, count in zip(old, new, tokens, strict=True)]
        n = len(old)
        changes.append(change)
        variances.append(n / (n - 1) * sum(value * value for value in rest) / whole**2)
    return sum(changes) / len(changes), math.sqrt(sum(variances)) / len(changes)
