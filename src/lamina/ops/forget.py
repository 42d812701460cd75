"""``lamina forget``: data that must go, taken out of every layer that it went into.

Nothing is learnt from the old stack on the way: answers that it gives would carry over what must go. A layer is kept
where nothing below it changes, dropped, trained again without the rows, or carried as it is; docs/design/updating.md
says when, and what that does and does not promise.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from lamina.data.read import DataFile
from lamina.errors import DataError
from lamina.ops.carry import Sides, recorded_recipe
from lamina.ops.costs import layer_size
from lamina.ops.measure import find_yardstick, nats_per_byte
from lamina.ops.place import set_goals
from lamina.ops.project import Project
from lamina.ops.rows import forbid_rows, forgotten_rows, prepare_rows, recorded_sides, superseded
from lamina.ops.sources import remaining_rows
from lamina.ops.spending import spending
from lamina.ops.traces import Trace, find_trace
from lamina.ops.train import make_layer
from lamina.records import Conversation
from lamina.stack.layers import read_layer, read_stack, write_stack
from lamina.stack.lineage import get_current, set_ref
from lamina.stack.manifest import Cost, LayerConfig, StackConfig, StackEntry
from lamina.stack.order import mark_moved
from lamina.stack.seen import read_seen

__all__ = ["Forgotten", "Step", "Wish", "forget", "plan"]

Action = Literal["keep", "drop", "retrain", "carry"]
Source = tuple[tuple[DataFile, ...], list[Conversation]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What must go.

    Attributes:
        what: it in a few words, for the branch's log.
        rows: identities of the rows.
        whole: digests of layers that go whole.
        texts: those of the rows whose words are here, to measure whether they are gone.
    """

    what: str
    rows: frozenset[str]
    whole: tuple[str, ...] = ()
    texts: tuple[Conversation, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What becomes of a layer of the branch, and why.

    Attributes:
        height: its place, from 0.
        entry: the layer there.
        action: what is done with it.
        trace: what it has of the rows.
        now: its place in the new stack, None where it has none (yet).
        why: a few words where the action is not what was planned.
        cost: of training it again.
    """

    height: int
    entry: StackEntry
    action: Action
    trace: Trace
    now: StackEntry | None = None
    why: str = ""
    cost: Cost = field(default_factory=partial(Cost.total, ()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What was done: the branch, its stack before and now, and every layer's step."""

    branch: str
    before: StackConfig
    after: StackConfig
    steps: tuple[Step, ...]

    @property
    def cost(self) -> Cost:
        """Of everything that was trained again."""
        return Cost.total([step.cost for step in self.steps])


def plan(project: Project, wish: Wish, *, strict: bool = False) -> list[Step]:
    """Return what becomes of each layer of the current branch, bottom first, without doing it.

    Args:
        project: the open project.
        wish: what must go.
        strict: train every layer above the first one that changes again, whether or not it has anything of the rows.
    """
    stack = project.stack()
    found: list[Step] = []
    for height, entry in enumerate(stack.layers):
        below = [lower.layer for lower in stack.layers[:height]]
        trace = find_trace(project.store, entry.layer, wish.rows, whole=wish.whole, below=below)
        is_above = any(step.action != "keep" for step in found)
        if trace.is_itself:
            action: Action = "drop"
        elif trace or (strict and is_above and _has_rows(project, entry)):
            action = "retrain"
        else:
            action = "carry" if is_above else "keep"
        found.append(Step(height=height, entry=entry, action=action, trace=trace))
    return found


def forget(project: Project, wish: Wish, *, paths: Sequence[Path] = (), strict: bool = False) -> Forgotten:
    """Take rows, or whole layers, out of the current branch, and never train on the rows again.

    The branch moves once, at the end, and no gate is asked: what must go goes whatever it costs. A stopped command
    goes on when it is started again.

    Args:
        project: the open project.
        wish: what must go.
        paths: files to take the rows from that stay, besides the project's folder.
        strict: train every layer above the first one that changes again.

    Raises:
        DataError: if rows that a layer must keep are not here to train it on again; nothing has changed then.
        BusyError: if another lamina is at work in the project.
        StackError: if training diverges, or the branch moved meanwhile.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint.
    """
    with project.working("forget"):
        branch, held = get_current(project.store)
        old = read_stack(project.store, held)
        steps = plan(project, wish, strict=strict)
        sources = _find_sources(project, old, steps, wish, paths)
        forbid_rows(project.store, wish.rows)
        stack = old.prefix(0)
        done: list[Step] = []
        for step in steps:
            made = _take(project, step, old, stack, sources.get(step.height))
            done.append(made)
            if made.now is not None:
                stack = stack.model_copy(update={"layers": (*stack.layers, made.now)})
                stack = mark_moved(project.store, stack, start=len(stack.layers) - 1)
        digest = write_stack(project.store, stack)
        if digest != held:
            set_ref(project.store, branch, digest, why=_why(wish, done), expect=held)
        for folder in ("cache", "runs"):  # both hold rows in one form or another, and are made again on demand
            shutil.rmtree(project.store.root / folder, ignore_errors=True)
    return Forgotten(branch=branch, before=old, after=stack, steps=tuple(done))


def _has_rows(project: Project, entry: StackEntry) -> bool:
    return bool(read_seen(project.store, read_layer(project.store, entry.layer)))


def _find_sources(
    project: Project, old: StackConfig, steps: Sequence[Step], wish: Wish, paths: Sequence[Path]
) -> dict[int, Source]:
    """Return, by height, the rows that layers are to be trained on again; of carried ones where they are here."""
    without = wish.rows | forgotten_rows(project.store)
    spare = superseded(project, old)
    found: dict[int, Source] = {}
    problems: list[DataError] = []
    for step in steps:
        if step.action not in ("retrain", "carry"):
            continue
        layer = read_layer(project.store, step.entry.layer)
        try:
            found[step.height] = remaining_rows(project, layer, without, paths, spare)
        except DataError as error:
            problems += [error] if step.action == "retrain" else []
    if problems:
        told = "; ".join(error.message for error in problems)
        raise DataError(problems[0].file, told.removeprefix(f"{problems[0].file}: "), hint=problems[0].hint)
    return found


def _take(project: Project, step: Step, old: StackConfig, below: StackConfig, source: Source | None) -> Step:
    if step.action == "keep":
        return replace(step, now=step.entry)
    if step.action == "drop":
        return step
    if step.action == "retrain" and source is not None:
        return _retrain(project, step, below, source)
    return _carry(project, step, old, below, source)


def _retrain(project: Project, step: Step, below: StackConfig, source: Source) -> Step:
    """Train the layer by its own recipe on the rows that are left; each stays on the side that it was on."""
    layer = read_layer(project.store, step.entry.layer)
    files, rows = source
    recipe = recorded_recipe(layer)
    data = prepare_rows(project, files, rows, recipe, sides=recorded_sides(project.store, layer))
    if not data.train:
        return replace(step, action="drop", why="no rows are left to train it on")
    project.progress.note(f"{layer.name}: trained again on the {len(rows)} rows that are left")
    write_stack(project.store, below)
    name = step.entry.name
    with spending(project, "forget", name, below) as spent:
        made = make_layer(project, data, name=name, recipe=recipe, origins=layer.recipe_origins, parent=below)
        spent.own = layer_size(project.store, made.layer)
    entry = StackEntry(layer=made.layer, name=name, scale=step.entry.scale)
    return replace(step, action="retrain", now=entry, cost=read_layer(project.store, made.layer).cost)


def _carry(project: Project, step: Step, old: StackConfig, below: StackConfig, source: Source | None) -> Step:
    """Carry the layer as it is if it does as well on what is left below it; else train it again."""
    layer = read_layer(project.store, step.entry.layer)
    loss = _losses(project, layer, step, old, below)
    if loss is None:
        return replace(step, now=step.entry, why="no rows of it are here to measure it by")
    found, most = loss
    told = f"{found:.4f} nats per byte, {most:.4f} would do"
    project.progress.note(f"{layer.name} as it is: {told}")
    if found <= most:
        return replace(step, now=step.entry)
    if source is None or not source[1]:
        return replace(step, now=step.entry, why=f"{told}, and its rows are not here to train it again")
    return replace(_retrain(project, step, below, source), why=told)


def _losses(
    project: Project, layer: LayerConfig, step: Step, old: StackConfig, below: StackConfig
) -> tuple[float, float] | None:
    """Return the layer's loss on its own rows on top of ``below``, and the loss that would do."""
    yardstick = find_yardstick(project.store, layer)
    if yardstick is None:
        return None
    stack = below.model_copy(update={"layers": (*below.layers, step.entry)})
    with spending(project, "forget", step.entry.name, old):
        goal = set_goals(Sides(project, project), old, {step.height: yardstick})[step.height]
        loss, _ = nats_per_byte(project.activate(mark_moved(project.store, stack)), goal.yardstick)
    return loss, goal.loss + goal.margin


def _why(wish: Wish, steps: Sequence[Step]) -> str:
    parts = [f"forget {wish.what}"]
    for action, told in (("drop", "dropped"), ("retrain", "trained again"), ("carry", "carried")):
        if names := [step.entry.name for step in steps if step.action == action]:
            parts.append(f"{', '.join(names)} {told}")
    return "; ".join(parts)
