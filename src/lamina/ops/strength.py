"""How strongly a new layer counts on its stack: the scale that does best on held-out rows of old and new skills.

Source: a tuned model moved back towards where it came from, Wortsman et al. 2022 (WiSE-FT), arXiv:2109.01903. A scale
that grows with depth (LiNeS, arXiv:2410.17146) is among what docs/design/stacking.md tried.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from lamina.lora.adapter import Adapter
from lamina.ops.project import Project
from lamina.ops.rows import heldout_sample, render_rows
from lamina.records import TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import Cost, StackConfig
from lamina.train.passes import row_losses

__all__ = ["SkillRows", "Strength", "find_strength", "skill_rows", "weigh_change"]

_SCALES = (0.5, 0.75, 1.25)
_FEWEST_ROWS, _MOST_ROWS = 4, 48

_STANDARD_ERRORS = 2.0
# Below this share of the loss a gain is hardly more than noise, and no measure for anything.
_LEAST_GAIN = 0.05
_SHARE_OF_TIME = 0.1
# Training a token takes a forward pass and about as much again backward.
_COST_OF_A_TOKEN = 0.5


@dataclass(frozen=True, slots=True)
class Strength:
    """The scale, and what finding it took."""

    scale: float = 1.0
    cost: Cost = field(default_factory=partial(Cost.total, ()))


@dataclass(frozen=True, slots=True)
class SkillRows:
    """Held-out rows of one skill, and their loss in nats per trained token before and after its layer, if known."""

    rows: Sequence[TokenRow]
    before: float | None = None
    after: float | None = None

    @property
    def counts(self) -> list[int]:
        """Each row's trained tokens."""
        return [row.trained_count for row in self.rows]

    @property
    def gain(self) -> float | None:
        """What the layer gained, in nats per trained token."""
        return None if self.before is None or self.after is None else self.before - self.after


def find_strength(project: Project, parent: StackConfig, adapter: Adapter, own: SkillRows, *, tokens: int) -> Strength:
    """Return the scale at which ``adapter`` does best on ``parent``: 1, unless another one surely does better.

    What is made small is the mean over the new skill and those of the earlier layers of ``weigh_change``. Another scale
    is taken only if it lowers that by more than two standard errors, as the best of three would often be better by one.
    The search takes at most a tenth of the training time: with few rows there is none.

    Args:
        project: the open project.
        parent: what the layer was trained on.
        adapter: its weights.
        own: its own held-out rows.
        tokens: how many it was trained on.
    """
    budget = _SHARE_OF_TIME / _COST_OF_A_TOKEN * tokens / (len(_SCALES) + 1)
    skills = skill_rows(project, parent, own, budget)
    if not skills:
        return Strength()
    started = time.perf_counter()
    losses: dict[float, list[list[float]]] = {}
    with project.progress.stage("scale", total=len(_SCALES) + 1, unit="trials") as tick:
        for scale in (1.0, *_SCALES):
            base = project.activate(parent, top=(adapter, scale), force=True)
            losses[scale] = [row_losses(base, skill.rows) for skill in skills]
            tick(1)
    counts, gains = [skill.counts for skill in skills], [skill.gain for skill in skills]
    changes = {scale: weigh_change(losses[1.0], losses[scale], counts, gains) for scale in _SCALES}
    best = min(_SCALES, key=lambda scale: changes[scale][0])
    change, error = changes[best]
    chosen = best if change < -_STANDARD_ERRORS * error else 1.0
    project.progress.note(
        f"scale {chosen:g}: at {best:g} old and new skills' held-out loss is {change:+.1%} +- {error:.1%}, "
        "as shares of what is left of it or was gained"
    )
    looked = (len(_SCALES) + 1) * sum(len(row.ids) for skill in skills for row in skill.rows)
    return Strength(chosen, Cost(tokens=looked, trained_tokens=0, seconds=time.perf_counter() - started, steps=0))


def skill_rows(project: Project, parent: StackConfig, own: SkillRows, budget: float) -> list[SkillRows]:
    """Return held-out rows of the new skill and of each earlier layer, evenly spread, within ``budget`` tokens in all.

    Empty where there is nothing to weigh: no held-out rows of the new skill, or of no earlier one, or no room for four.
    """
    layers = [read_layer(project.store, entry.layer) for entry in parent.layers]
    context = project.loaded.context
    old = [
        SkillRows(
            render_rows(project, heldout_sample(project, [layer], _MOST_ROWS), context),
            layer.heldout_loss_before,
            layer.heldout_loss_after,
        )
        for layer in layers
    ]
    skills = [skill for skill in (own, *old) if len(skill.rows) >= _FEWEST_ROWS]
    if len(own.rows) < _FEWEST_ROWS or len(skills) < 2:
        return []
    chosen = []
    for skill in skills:
        rows = skill.rows
        a_row = sum(len(row.ids) for row in rows) / len(rows)
        count = min(len(rows), _MOST_ROWS, int(budget / len(skills) / a_row))
        if count < _FEWEST_ROWS:
            return []
        chosen.append(replace(skill, rows=[rows[place * len(rows) // count] for place in range(count)]))
    return chosen


def weigh_change(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    counts: Sequence[Sequence[int]],
    gains: Sequence[float | None],
) -> tuple[float, float]:
    """Return the mean over skills of the change of loss, and its standard error over rows, paired.

    A skill's change counts as a share of its loss, or of what its layer gained if that is less: a loss that is mostly
    chance, as that of free answers, moves only a little, and a tenth of it may be all that was learnt.

    Args:
        before: for each skill each row's summed loss.
        after: the same with the change.
        counts: for each skill each row's trained tokens.
        gains: for each skill what its layer gained, in nats per trained token, None if that is not known.
    """
    changes, variances = [], []
    for old, new, tokens, gain in zip(before, after, counts, gains, strict=True):
        whole, every = sum(old), sum(tokens)
        if gain is not None:
            whole = min(whole, max(gain * every, _LEAST_GAIN * whole))
        change = (sum(new) - sum(old)) / whole
        # Of a ratio of sums, to first order: each row's change beyond what its share of tokens would bring.
        mean = (sum(new) - sum(old)) / every
        rest = [b - a - mean * count for a, b, count in zip(old, new, tokens, strict=True)]
        n = len(old)
        changes.append(change)
        variances.append(n / (n - 1) * sum(value * value for value in rest) / whole**2)
    return sum(changes) / len(changes), math.sqrt(sum(variances)) / len(changes)
