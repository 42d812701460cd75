"""``lamina squash``: several layers of a stack become one, exactly, or smaller with the loss measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamina.errors import UsageError
from lamina.infer.drift import LogitDrift, Look, logit_drift, look
from lamina.lora.adapter import Adapter, combine
from lamina.lora.squash import Lost, compress
from lamina.ops.project import Project
from lamina.ops.rows import heldout_sample, render_rows
from lamina.ops.spending import spending
from lamina.ops.unite import unite
from lamina.records import TokenRow
from lamina.stack.layers import name_of, read_layer, stack_digest, write_stack
from lamina.stack.lineage import get_current, set_ref
from lamina.stack.manifest import Origin, StackConfig
from lamina.stack.order import add_layer, find_entry

__all__ = ["SquashResult", "squash"]

_ROWS_PER_LAYER = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class SquashResult:
    """What squashing gave.

    Attributes:
        layer: digest of the new layer.
        stack: the stack with it.
        old: the stack before.
        rank_before, rank_after: the largest of any map.
        lost: of a smaller rank, what it lost; None for the exact form.
        losses: held-out loss, in nats per token, before and after; None where no layer has held-out rows.
        drift: of the logits on those rows; None likewise.
        branch: the branch that moved, None if the stack is not what the current branch held.
    """

    layer: str
    stack: StackConfig
    old: StackConfig
    rank_before: int
    rank_after: int
    lost: Lost | None
    losses: tuple[float, float] | None
    drift: LogitDrift | None
    branch: str | None


def squash(
    project: Project,
    expression: str | None = None,
    *,
    name: str = "squashed",
    rank: int | None = None,
    energy: float | None = None,
    start: str | None = None,
) -> SquashResult:
    """Replace the layers of a stack, from ``start`` upwards, by one layer on the same parent.

    Without ``rank`` and ``energy`` the new layer holds the old ones side by side and changes nothing. The current
    branch moves if the stack is what it holds; the old layers stay in the store.

    Args:
        project: the open project.
        expression: the stack; None means the current branch.
        name: the new layer's name.
        rank: the rank of every map of the new layer.
        energy: instead, the share of each map's sum of squares to keep, in (0, 1].
        start: the lowest layer that goes in; None means all.

    Raises:
        UsageError: if rank or energy make no sense, or there is nothing to squash.
        StackError: if a layer does not fit, or the branch moved meanwhile.
    """
    _check_flags(rank, energy)
    branch, held = get_current(project.store)
    stack = project.stack(expression)
    place = 0 if start is None else find_entry(stack, start)
    parent = stack.prefix(place)
    squashed = stack.layers[place:]
    if len(squashed) < (2 if rank is None and energy is None else 1):
        raise UsageError(
            f"{name_of(stack)}: {len(squashed)} layers to squash; expected at least two",
            hint="`lamina log` lists the layers; --rank makes a single layer smaller",
        )
    scales = [entry.scale for entry in squashed]
    whole = combine(project.adapters(squashed), scales)
    adapter, lost = (whole, None) if rank is None and energy is None else compress(whole, rank=rank, energy=energy)
    layers = [read_layer(project.store, entry.layer) for entry in squashed]
    rows = render_rows(project, heldout_sample(project, layers, _ROWS_PER_LAYER), project.loaded.context)
    with spending(project, "squash", name, stack):
        below, before, after = _look(project, parent, stack, adapter, rows)
    notes = {"rank": rank, "energy": energy, "relative_error": lost.total} if lost else {}
    origin = Origin(method="squash", layers=tuple(entry.layer for entry in squashed), scales=tuple(scales), notes=notes)
    head = project.loaded.head
    losses = (below.loss(head), after.loss(head)) if below and after else (None, None)
    layer = unite(project, adapter, name=name, parent=parent, origin=origin, losses=losses)
    new = add_layer(project.store, parent, layer)
    digest = write_stack(project.store, new)
    moves = held == stack_digest(stack)
    if moves:
        set_ref(project.store, branch, digest, why=f"squash {name}", expect=held)
    return SquashResult(
        layer=layer,
        stack=new,
        old=stack,
        rank_before=max(factors.rank for factors in whole.values()),
        rank_after=max(factors.rank for factors in adapter.values()),
        lost=lost,
        losses=(before.loss(head), after.loss(head)) if before and after else None,
        drift=logit_drift(head, before, after) if before and after else None,
        branch=branch if moves else None,
    )


def _check_flags(rank: int | None, energy: float | None) -> None:
    if rank is not None and energy is not None:
        raise UsageError("--rank and --energy: expected one of them", hint="--rank 16, or --energy 0.95")
    if rank is not None and rank < 1:
        raise UsageError(f"--rank {rank}: expected at least 1", hint="--rank 16")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise UsageError(f"--energy {energy:g}: expected a share above 0 and up to 1", hint="--energy 0.95")


def _look(
    project: Project, parent: StackConfig, stack: StackConfig, adapter: Adapter, rows: Sequence[TokenRow]
) -> tuple[Look | None, Look | None, Look | None]:
    """Return what parent, old and new stack make of the rows; nothing where there are none."""
    base = project.activate(stack)
    if not rows:
        return None, None, None
    with project.progress.stage("measure", total=3 * len(rows), unit="rows") as tick:
        before = look(base, rows, tick)
        below = look(project.activate(parent), rows, tick)
        return below, before, look(project.activate(parent, top=(adapter, 1.0), force=True), rows, tick)
