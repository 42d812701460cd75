"""One layer on another parent: what it did before is measured, and the first step that does as much is taken."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from lamina.errors import StackError
from lamina.ops.carry import REBASE_KEY, Made, Move, Sides, Step, carry, original_steps, realign, retrain
from lamina.ops.measure import HELDOUT, Yardstick, keep_fitting, nats_per_byte, rendered
from lamina.ops.project import Project
from lamina.ops.run import made_here
from lamina.stack.layers import list_layers, stack_digest, write_layer, write_stack
from lamina.stack.manifest import WEIGHTS_TYPE, Cost, Origin, StackConfig, StackEntry

__all__ = ["Attempt", "Goal", "Placed", "find_placed", "place", "set_goals"]

# docs/design/rebase.md says why so much.
_MARGIN_OF_GAIN = 0.05
_MOST_OF_LOSS = 0.25
_LEAST_OF_LOSS = 0.005


@dataclass(frozen=True, slots=True)
class Goal:
    """What a layer did where it comes from, in nats per byte of its yardstick: ``without`` it and with it."""

    yardstick: Yardstick
    without: float
    loss: float
    cost: Cost

    @property
    def margin(self) -> float:
        """By how much the loss may rise: a twentieth of what the layer gained, within bounds set by the loss itself.

        No more than a quarter of it, for a skill that is nearly perfect is lost long before a twentieth of the gain
        is; and no less than half a percent, for a layer that gained next to nothing.
        """
        allowed = min(_MARGIN_OF_GAIN * (self.without - self.loss), _MOST_OF_LOSS * self.loss)
        return max(allowed, _LEAST_OF_LOSS * self.loss)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One step that was tried: the loss it reached, on which rows it trained, and what it took, measuring included."""

    step: Step
    loss: float
    rows: str
    cost: Cost


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a layer ended up.

    Attributes:
        entry: its place in the new stack.
        step: how it got there.
        measured_on: what the losses are of; empty where algebra says that nothing changes.
        loss: in nats per byte, on the old stack and on the new one; None where nothing was measured.
        most: the loss that would still have done.
        is_sufficient: whether it does.
        tried: every step, in order.
        cost: of all of it.
    """

    entry: StackEntry
    step: Step
    measured_on: str = ""
    loss: tuple[float, float] | None = None
    most: float | None = None
    is_sufficient: bool = True
    tried: tuple[Attempt, ...] = ()
    cost: Cost = field(default_factory=partial(Cost.total, ()))

    @property
    def is_exact(self) -> bool:
        """Whether the sum of layers below and with it is what it was, so that nothing had to be measured."""
        return self.loss is None


def set_goals(sides: Sides, stack: StackConfig, yardsticks: Mapping[int, Yardstick]) -> dict[int, Goal]:
    """Return what the layers of ``stack`` (the old one) at some heights do there, on rows that fit into both bases.

    All at once, so that each base is loaded once.

    Raises:
        StackError: if no row of a layer fits into both.
    """
    new = sides.use_new().loaded
    fitting = {height: keep_fitting(new, yardstick) for height, yardstick in yardsticks.items()}
    context, old = new.context, sides.use_old()
    goals = {}
    for height, yardstick in fitting.items():
        both = keep_fitting(old.loaded, yardstick)
        if not both.rows:
            raise StackError(
                f"no {both.kind} of layer '{stack.layers[height].name}' fit into both bases' contexts "
                f"({old.loaded.context} and {context} tokens), so it cannot be measured",
                hint="drop the layer, or choose a base of longer context",
            )
        below, whole = (stack.prefix(top) for top in (height, height + 1))
        without, first = nats_per_byte(old.activate(below), both)
        loss, second = nats_per_byte(old.activate(whole), both)
        goals[height] = Goal(both, without, loss, Cost.total([first, second]))
    return goals


def place(sides: Sides, move: Move, goal: Goal) -> Placed:
    """Put the layer on its new parent by the first step that suffices, else by the best of all.

    The layer is written to the store; no ref moves. Steps that bases or rows do not allow are left out.

    Raises:
        DataError: if the new base's context would cut too much of its rows.
        StackError: if training diverges, or no step can be taken.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    bare, spent = nats_per_byte(sides.use_new().activate(move.new_below), goal.yardstick)
    # A better base may reach the old loss by itself: a layer that makes it worse is not worth its place.
    most = min(goal.loss + goal.margin, bare * (1 + _LEAST_OF_LOSS))
    ways: tuple[tuple[Step, Callable[[], Made | None]], ...] = (
        ("carry", partial(carry, sides, move)),
        ("realign", partial(realign, sides, move, goal.yardstick)),
        ("retrain", partial(retrain, sides, move, goal.yardstick)),
    )
    tried: list[tuple[Attempt, Made]] = []
    for step, make in ways:
        if (made := make()) is not None:
            tried.append((_measure(sides, move, goal, step, made), made))
            loss = tried[-1][0].loss
            sides.new.progress.note(f"{move.entry.name}: {step} gives {loss:.4f} nats per byte; {most:.4f} would do")
            if loss <= most:
                break
    if not tried:
        raise StackError(
            f"layer '{move.entry.name}' does not fit the new base, and neither its files nor a sample of its rows are "
            "here to train it again",
            hint="name the files with --data, or pull the stack from where it was pushed --with-data",
        )
    attempts = tuple(attempt for attempt, _ in tried)
    best, made = min(tried, key=lambda pair: pair[0].loss)
    placed = Placed(
        entry=move.entry,
        step=best.step,
        measured_on=goal.yardstick.kind,
        loss=(goal.loss, best.loss),
        most=most,
        is_sufficient=best.loss <= most,
        tried=attempts,
        cost=Cost.total([goal.cost, spent, *(attempt.cost for attempt in attempts)]),
    )
    if placed.step == "carry" and sides.new is sides.old:
        return placed
    return _write(sides.new, move, goal, placed, made, bare)


def find_placed(project: Project, move: Move) -> Placed | None:
    """Return what an earlier run made of this layer on this parent, None if it did not get that far."""
    parent, pin = stack_digest(move.new_below), project.base.pin
    wanted = (parent, pin.digest, (move.entry.layer,), (move.entry.scale,))
    for digest, layer in list_layers(project.store):
        origin = layer.origin
        if origin is None or REBASE_KEY not in origin.notes:
            continue
        if (layer.parent, layer.base.digest, origin.layers, origin.scales) == wanted:
            notes = origin.notes[REBASE_KEY]
            project.progress.note(f"{layer.name}: placed before by {notes['step']}")
            return Placed(
                entry=StackEntry(layer=digest, name=layer.name, scale=notes["scale"]),
                step=notes["step"],
                measured_on=notes["measured_on"],
                loss=(notes["loss"][0], notes["loss"][1]),
                most=notes["most"],
                is_sufficient=notes["is_sufficient"],
                tried=tuple(Attempt(**item | {"cost": Cost(**item["cost"])}) for item in notes["tried"]),
                cost=layer.cost,
            )
    return None


def _measure(sides: Sides, move: Move, goal: Goal, step: Step, made: Made) -> Attempt:
    base = sides.use_new().activate(move.new_below, top=(made.adapter, made.scale))
    loss, spent = nats_per_byte(base, goal.yardstick)
    return Attempt(step=step, loss=loss, rows=made.rows, cost=Cost.total([made.cost, spent]))


def _write(project: Project, move: Move, goal: Goal, placed: Placed, made: Made, bare: float) -> Placed:
    """Return ``placed`` with its entry in the new stack, the layer behind it written to the store."""
    store = project.store
    weights = move.layer.weights if made.weights is None else store.put_file(made.weights, WEIGHTS_TYPE).digest
    write_stack(store, move.new_below)
    record = {
        "step": placed.step,
        "scale": made.scale,
        "measured_on": placed.measured_on,
        "loss": placed.loss,
        "most": placed.most,
        "is_sufficient": placed.is_sufficient,
        "tried": [dataclasses.asdict(item) | {"cost": item.cost.model_dump()} for item in placed.tried],
        "original_steps": original_steps(move.layer),
    }
    changes = {
        "base": project.base.pin,
        "parent": stack_digest(move.new_below),
        "weights": weights,
        "rank": max(factors.rank for factors in made.adapter.values()),
        "modules": tuple(made.adapter),
        "cost": placed.cost,
        "origin": Origin(
            method=placed.step, layers=(move.entry.layer,), scales=(move.entry.scale,), notes={REBASE_KEY: record}
        ),
        **_losses_per_token(project, goal, placed, bare),
        **made_here(made.passes),
    }
    digest = write_layer(store, move.layer.model_copy(update=changes))
    if made.weights is not None:
        shutil.rmtree(made.weights.parent, ignore_errors=True)
    entry = StackEntry(layer=digest, name=move.entry.name, scale=made.scale)
    return dataclasses.replace(placed, entry=entry)


def _losses_per_token(project: Project, goal: Goal, placed: Placed, bare: float) -> dict[str, float | None]:
    """Return the losses in the unit that layers record, where they are of held-out rows."""
    if goal.yardstick.kind != HELDOUT or placed.loss is None:
        return {"heldout_loss_before": None, "heldout_loss_after": None}
    tokens = sum(row.trained_count for row in rendered(project.loaded, goal.yardstick.rows))
    unit = goal.yardstick.text_bytes / tokens
    return {"heldout_loss_before": bare * unit, "heldout_loss_after": placed.loss[1] * unit}
