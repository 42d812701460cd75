"""Whether a stack still knows rows: how likely it finds them, beside rows that it was never trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lamina.infer.score import score_rows
from lamina.ops.measure import rendered
from lamina.ops.project import Project
from lamina.ops.rows import spread
from lamina.records import Conversation
from lamina.stack.manifest import StackConfig

__all__ = ["Membership", "measure_membership", "told_apart"]

_MOST_ROWS = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How a stack finds rows, in nats per token of their answers: the more it knows them, the fewer.

    Attributes:
        stack: the stack, for people.
        rows: mean over the rows in question.
        others: mean over rows of the same layers that were held out of training; None where there are none.
        told_apart: chance that one of the rows is found likelier than one of the others: 0.5 if it was never trained
            on, towards 1 if it was; None without others.
    """

    stack: str
    rows: float
    others: float | None
    told_apart: float | None


def measure_membership(
    project: Project,
    stacks: Sequence[tuple[str, StackConfig]],
    rows: Sequence[Conversation],
    others: Sequence[Conversation],
) -> list[Membership]:
    """Return how each stack finds ``rows`` beside ``others``, on up to 128 of each; nothing if no row is here.

    Source: the loss attack of Yeom et al. 2018, arXiv:1709.01604, section 3, as an area under its curve.
    """
    asked = rendered(project.loaded, spread(rows, _MOST_ROWS))
    beside = rendered(project.loaded, spread(others, _MOST_ROWS))
    if not asked:
        return []
    found = []
    for name, stack in stacks:
        base = project.activate(stack)
        with project.progress.stage(f"{name} on forgotten rows", total=len(asked) + len(beside), unit="rows") as tick:
            scored = [-float(np.mean(log_probs)) for log_probs in score_rows(base, [*asked, *beside], tick)]
        own, other = scored[: len(asked)], scored[len(asked) :]
        found.append(
            Membership(
                stack=name,
                rows=float(np.mean(own)),
                others=float(np.mean(other)) if other else None,
                told_apart=told_apart(own, other) if other else None,
            )
        )
    return found


def told_apart(rows: Sequence[float], others: Sequence[float]) -> float:
    """Return the share of pairs in which the row has the lower loss; ties count half (Mann-Whitney)."""
    own, other = np.asarray(rows)[:, None], np.asarray(others)[None, :]
    return float(np.mean((own < other) + 0.5 * (own == other)))
