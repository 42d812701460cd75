"""``lamina rebase``: layers carried to another order, onto another stack, or to another base.

What algebra keeps exact is only noted; everything else is measured, and each layer takes the cheapest step that is good
enough (``lamina.ops.place``). Nothing that a person sees moves before every layer has its place; layers that have one
are found again when a stopped command is started anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamina.config import CONFIG_NAME, BaseSettings
from lamina.errors import StackError, UsageError
from lamina.model.base import resolve_base
from lamina.ops.carry import Move, Sides, carry, realign_steps
from lamina.ops.costs import layer_size
from lamina.ops.measure import Yardstick, find_yardstick
from lamina.ops.place import Goal, Placed, find_placed, place, set_goals
from lamina.ops.project import Project, base_table
from lamina.ops.sources import has_sources
from lamina.ops.spending import spending
from lamina.ops.toml import replace_table
from lamina.stack.layers import name_of, read_layer, read_stack, write_stack
from lamina.stack.lineage import get_current, set_ref
from lamina.stack.manifest import Cost, StackConfig, StackEntry
from lamina.stack.order import mark_moved, reorder
from lamina.stack.store import Store, disk_errors, write_atomically

__all__ = ["Planned", "Rebased", "Task", "carry_out", "onto", "plan", "plan_order", "reorder_branch", "to_base"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is to be done.

    Attributes:
        sides: the project on the base that the layers are on, and on the one they go to.
        old: the branch's stack.
        heights: which of its layers move, lowest first.
        start: what they are put on.
        why: one line for the branch's log.
        paths: files to take recorded data from, besides the project's folder.
        settings: what ``lamina.toml`` says of the new base afterwards; None where the base stays.
    """

    sides: Sides
    old: StackConfig
    heights: tuple[int, ...]
    start: StackConfig
    why: str
    paths: tuple[Path, ...] = ()
    settings: BaseSettings | None = None

    def move(self, height: int, new_below: StackConfig) -> Move:
        """Return the layer at ``height`` of the old stack, and what it goes onto."""
        entry = self.old.layers[height]
        below = self.old.prefix(height)
        layer = read_layer(self.sides.old.store, entry.layer)
        return Move(entry=entry, layer=layer, old_below=below, new_below=new_below, paths=self.paths)

    def is_exact(self, height: int) -> bool:
        """Whether algebra keeps what the layer at ``height`` is part of: at it or above, old and new sum are the same.

        Then only the order below has changed, and every layer up to there is carried.
        """
        if self.sides.new is not self.sides.old:
            return False
        for top in range(height + 1, len(self.old.layers) + 1):
            moved = [self.old.layers[at] for at in self.heights if at < top]
            if _is_same_sum([*self.start.layers, *moved], self.old.layers[:top]):
                return True
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What would be done with a layer: whether it is exact, what it would be measured on, and the steps there are."""

    name: str
    layer: str
    is_exact: bool
    measured_on: str
    steps: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebased:
    """What was done. ``moved`` is False where a layer had no sufficient step, so that the branch stayed."""

    branch: str
    stack: str
    layers: tuple[Placed, ...]
    moved: bool

    @property
    def cost(self) -> Cost:
        """Of everything that was tried."""
        return Cost.total([layer.cost for layer in self.layers])


def reorder_branch(store: Store, names: Sequence[str]) -> Rebased:
    """Move the layers of the current branch to the order of ``names``, bottom first: the sum stays what it is.

    Raises:
        UsageError: if ``names`` are not exactly its layers.
        StackError: if a name fits none.
    """
    branch, held, stack = _reordered(store, names)
    digest = write_stack(store, stack)
    if digest != held:
        set_ref(store, branch, digest, why=f"rebase --order {','.join(names)}", expect=held)
    placed = tuple(Placed(entry=entry, step="carry") for entry in stack.layers)
    return Rebased(branch=branch, stack=digest, layers=placed, moved=True)


def plan_order(store: Store, names: Sequence[str]) -> list[Planned]:
    """Return what ``reorder_branch`` would do.

    Raises:
        UsageError, StackError: as it does.
    """
    _, _, stack = _reordered(store, names)
    return [
        Planned(name=entry.name, layer=entry.layer, is_exact=True, measured_on="", steps=("carry",))
        for entry in stack.layers
    ]


def onto(project: Project, expression: str, paths: Sequence[Path] = ()) -> Task:
    """Return the task of putting the branch's own layers, those that the other stack lacks, onto that stack.

    Raises:
        UsageError: if the branch has no layers of its own.
        StackError: if the other stack is not there, or on another base.
    """
    old, start = project.stack(), project.stack(expression)
    if start.base.digest != old.base.digest:
        raise StackError(
            f"'{expression}' is on base {start.base.name} ({start.base.digest[7:19]}), "
            f"the branch on {old.base.name} ({old.base.digest[7:19]})",
            hint="carry the branch to that base first: lamina rebase --base",
        )
    there = {entry.layer for entry in start.layers}
    own = tuple(height for height, entry in enumerate(old.layers) if entry.layer not in there)
    if not own:
        raise UsageError(
            f"every layer of '{project.branch}' is in '{expression}' already",
            hint=f"nothing to rebase; `lamina switch` to {expression}",
        )
    why = f"rebase --onto {expression}"
    # Whoever names layers one by one puts them where they are on purpose.
    start = mark_moved(project.store, start)
    return Task(sides=Sides(project, project), old=old, heights=own, start=start, why=why, paths=tuple(paths))


def to_base(project: Project, settings: BaseSettings, paths: Sequence[Path] = ()) -> Task:
    """Return the task of carrying the branch's whole stack to another base.

    Raises:
        StackError, MachineError: if the base cannot be had.
    """
    base = resolve_base(settings, project.progress)
    pinned = settings.model_copy(update={"digest": base.pin.digest})
    new = Project(project.store, project.settings.model_copy(update={"base": pinned}), base, project.progress)
    old = read_stack(project.store, get_current(project.store)[1])
    start, heights = StackConfig(base=base.pin, layers=()), tuple(range(len(old.layers)))
    if old.base.digest == base.pin.digest:
        # Only lamina.toml is behind: a crash between the two, or an undo, left it there.
        start, heights = old, ()
    elif old.base.digest != project.base.pin.digest:
        raise StackError(
            f"'{project.branch}' is on base {old.base.name} ({old.base.digest[7:19]}), lamina.toml names "
            f"{project.base.pin.name} ({project.base.pin.digest[7:19]})",
            hint=f"put lamina.toml right first: lamina rebase --base {old.base.source}",
        )
    return Task(
        sides=Sides(project, new),
        old=old,
        heights=heights,
        start=start,
        why=f"rebase --base {settings.model}",
        paths=tuple(paths),
        settings=pinned,
    )


def plan(task: Task) -> list[Planned]:
    """Return what ``carry_out`` would do, without training or measuring anything."""
    found = []
    for height in task.heights:
        move, exact = task.move(height, task.start), task.is_exact(height)
        yardstick = None if exact else find_yardstick(task.sides.new.store, move.layer)
        found.append(
            Planned(
                name=move.entry.name,
                layer=move.entry.layer,
                is_exact=exact,
                measured_on="" if yardstick is None else f"{len(yardstick.rows)} {yardstick.kind}",
                steps=("carry",) if exact else () if yardstick is None else tuple(_steps(task, move)),
            )
        )
    return found


def carry_out(task: Task, *, accept: bool = False) -> Rebased:
    """Give every layer its new place, then move the branch (and ``lamina.toml``, if the base is another).

    Args:
        task: what to do.
        accept: move it also if a layer's best step is not sufficient.

    Raises:
        StackError: if a layer's rows are not here to measure it by, training diverges, or the branch moved meanwhile.
        KeyboardInterrupt: on Ctrl-C; the same command goes on from there.
    """
    project = task.sides.new
    branch, expect = get_current(project.store)
    text = _settings_text(task)
    yardsticks = _yardsticks(task)
    goals: dict[int, Goal] = {}
    stack, placed = task.start, list[Placed]()
    for height in task.heights:
        move = task.move(height, stack)
        found = Placed(entry=move.entry, step="carry") if height not in yardsticks else find_placed(project, move)
        if found is None:
            if height not in goals:
                with spending(task.sides.old, "realign", move.entry.name, task.old):
                    goals = set_goals(task.sides, task.old, {at: yardsticks[at] for at in yardsticks if at >= height})
            with spending(project, "realign", move.entry.name, stack) as spent:
                found = place(task.sides, move, goals[height])
                spent.own = layer_size(project.store, found.entry.layer)
        placed.append(found)
        if not found.is_sufficient and not accept:
            return Rebased(branch=branch, stack=expect, layers=tuple(placed), moved=False)
        stack = stack.model_copy(update={"layers": (*stack.layers, found.entry)})
        stack = mark_moved(project.store, stack, start=len(stack.layers) - 1)
    digest = write_stack(project.store, stack)
    if digest != expect:
        set_ref(project.store, branch, digest, why=task.why, expect=expect)
    if text is not None:
        path = project.store.project / CONFIG_NAME
        with disk_errors(path):
            write_atomically(path, text.encode())
    return Rebased(branch=branch, stack=digest, layers=tuple(placed), moved=True)


def _reordered(store: Store, names: Sequence[str]) -> tuple[str, str, StackConfig]:
    branch, held = get_current(store)
    return branch, held, reorder(store, read_stack(store, held), names)


def _settings_text(task: Task) -> str | None:
    """Return ``lamina.toml`` as it will be, made before anything moves, so that it cannot fail afterwards."""
    if task.settings is None:
        return None
    path = task.sides.old.store.project / CONFIG_NAME
    return replace_table(path, "base", base_table(task.settings))


def _yardsticks(task: Task) -> dict[int, Yardstick]:
    """Return what the layers are measured by whose place algebra does not settle."""
    found, missing = {}, []
    for height in (height for height in task.heights if not task.is_exact(height)):
        layer = read_layer(task.sides.old.store, task.old.layers[height].layer)
        yardstick = find_yardstick(task.sides.old.store, layer)
        if yardstick is None:
            missing.append(task.old.layers[height].name)
        else:
            found[height] = yardstick
    if missing:
        raise StackError(
            f"the held-out rows of {', '.join(missing)} are not here, so what another parent does to "
            f"{'it' if len(missing) == 1 else 'them'} cannot be measured in {name_of(task.old)}",
            hint="pull the stack from where it was pushed --with-data, or drop the layer and train it anew",
        )
    return found


def _is_same_sum(first: Sequence[StackEntry], second: Sequence[StackEntry]) -> bool:
    one, other = (sorted((entry.layer, entry.scale) for entry in entries) for entries in (first, second))
    return one == other


def _steps(task: Task, move: Move) -> list[str]:
    fits = carry(task.sides, move) is not None
    sample = move.layer.replay is not None and task.sides.new.store.has(move.layer.replay)
    steps = ["carry"] if fits else []
    if fits and sample:
        steps.append(f"realign, {realign_steps(move.layer)} steps")
    if has_sources(task.sides.new, move.layer, task.paths):
        steps.append("retrain on its files")
    elif sample:
        steps.append("retrain on its sample")
    return steps
