"""The runs of ``bench/update.py``, cut into steps: each finds what it gave before, so any of them may be stopped.

lamina      the sequence by ``train_layer`` and ``update`` with their defaults; every layer is let in, so that the
            sequence goes on, and what the gate says of it is reported
sequential  one adapter, trained on from stage to stage on the new rows alone; its rank is joint training's, its passes
            are those that the defaults choose, its learning rate is the best of several on dev rows after four skills
joint       one adapter trained anew on all rows so far; rank and batch by the defaults, passes as many as lamina's
            stages took on average over the rows, learning rate as for sequential
orders      the four skills in other orders, layer on layer; what orders share at their beginning is trained once
cost        joint training at every point where it stands beside lamina's staircase
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from stream import SKILLS
from tuning import continue_adapter, joint_recipe, rate_branch
from workshop import GUARDS, POINTS, STAGES, SVAMP, Stage, Workshop, dev_suite

from lamina.errors import UsageError
from lamina.ops.evaluate import prefixes
from lamina.ops.train import train_layer
from lamina.ops.update import update
from lamina.stack.manifest import StackConfig

__all__ = [
    "FOUR",
    "LAST",
    "ORDERS",
    "Step",
    "best_rate",
    "cost_steps",
    "dev_losses",
    "guards_of",
    "joint_branch",
    "joint_stack",
    "joint_steps",
    "lamina_steps",
    "order_branch",
    "order_steps",
    "sequential_stacks",
    "sequential_steps",
]

LAST = POINTS[-1]
FOUR = len(SKILLS)
# The first is the sequence's own. Two share their first skill with another, so that less has to be trained.
ORDERS = ("drtc", "ctrd", "dtcr", "crdt")
_BY_LETTER = {name[0]: name for name in SKILLS}
_ROW_S, _ITEM_S, _FEWEST_ROWS = 0.16, 0.07, 192


@dataclass(frozen=True)
class Step:
    """A piece of a run; ``guess_s`` is about how long it takes on two cores."""

    label: str
    guess_s: float
    run: Callable[[], object]


def lamina_steps(shop: Workshop) -> Iterator[Step]:
    """Yield the sequence's trainings with their gate, and the matrix of every prefix."""
    items = shop.plan.cut.test * FOUR + shop.plan.guards * len(GUARDS)
    for stage in STAGES:
        guess = _training_s(shop, _rows(shop, stage)) + _ITEM_S * items
        yield Step(f"lamina +{stage.name}", guess, partial(_grow, shop, stage))
    yield Step("lamina scores", _ITEM_S * items * 2, partial(_score_lamina, shop))


def joint_steps(shop: Workshop) -> Iterator[Step]:
    """Yield the search for a rate, which the first seed does for all, and joint training on everything."""
    if shop.seed == shop.plan.seeds[0] and len(shop.plan.joint_rates) > 1:
        for rate in shop.plan.joint_rates:
            yield _joint_step(shop, FOUR, rate)
        yield _dev_step(shop, "joint", [joint_branch(FOUR, rate) for rate in shop.plan.joint_rates])
    yield _joint_step(shop, LAST, None)
    yield Step("joint scores", _ITEM_S * _items(shop) * 2, partial(_score_joint, shop, LAST))


def cost_steps(shop: Workshop) -> Iterator[Step]:
    """Yield full retrainings at the other points; only the first seed does them."""
    if shop.seed != shop.plan.seeds[0]:
        return
    for point in shop.plan.points:
        yield _joint_step(shop, point, None)
        yield Step(f"joint at {point} scores", _ITEM_S * _items(shop), partial(_score_joint, shop, point))


def sequential_steps(shop: Workshop) -> Iterator[Step]:
    """Yield the search for a rate, and the one adapter's way through all stages."""
    rates = shop.plan.sequential_rates
    if shop.seed == shop.plan.seeds[0] and len(rates) > 1:
        for rate in rates:
            for place in range(FOUR):
                yield _sequential_step(shop, place, rate)
        yield _dev_step(shop, "sequential", [rate_branch(FOUR - 1, rate) for rate in rates])
    for place in range(len(STAGES)):
        yield _sequential_step(shop, place, None)
    yield Step("sequential scores", _ITEM_S * _items(shop) * LAST, partial(_score_sequential, shop))


def order_steps(shop: Workshop) -> Iterator[Step]:
    """Yield the orders; only the first seed runs them."""
    if shop.seed != shop.plan.seeds[0]:
        return
    trained: set[str] = set()
    for order in ORDERS[: shop.plan.orders]:
        for height in range(1, FOUR + 1):
            shared = order[:height] in trained or order is ORDERS[0]
            guess = 0.0 if shared else _training_s(shop, shop.plan.cut.rows)
            yield Step(f"order {order} +{_BY_LETTER[order[height - 1]]}", guess, partial(_pile, shop, order, height))
            trained.add(order[:height])
        yield Step(f"order {order} scores", _ITEM_S * _items(shop), partial(_score_order, shop, order))


def best_rate(shop: Workshop, kind: str) -> float | None:
    """Return the rate whose run has the lowest loss on dev rows, the mean over the four skills.

    It is the first seed's choice for all seeds; None if that seed has not tried them all.
    """
    rates = _rates(shop, kind)
    if len(rates) == 1:
        return rates[0]
    first = shop if shop.seed == shop.plan.seeds[0] else shop.sibling(shop.plan.seeds[0])
    losses = None if first is None else dev_losses(first, kind)
    return None if losses is None else min(losses, key=lambda rate: losses[rate])


def dev_losses(shop: Workshop, kind: str) -> dict[float, float] | None:
    """Return for each rate the mean over skills of the dev rows' loss in nats per token; None if not all are known."""
    rates = _rates(shop, kind)
    found = {}
    for rate in rates:
        branch = joint_branch(FOUR, rate) if kind == "joint" else rate_branch(FOUR - 1, rate)
        stack = shop.held(branch)
        matrix = None if stack is None else shop.known([(branch, stack)], [dev_suite(name) for name in SKILLS])
        if matrix is None:
            return None
        losses = [sum(score.nll) / len(score.nll) for score in matrix.scores[0]]
        found[rate] = sum(losses) / len(losses)
    return found


def guards_of(stage: Stage) -> list[str]:
    """Return the suites that a stage's layer must not harm, besides the guards: those of the skills before it."""
    before = {each.skill for each in STAGES[: STAGES.index(stage)]}
    return [name for name in SKILLS if name in before - {stage.skill}]


def joint_branch(point: int, rate: float) -> str:
    """Return the branch of joint training at a point with a learning rate."""
    return f"joint-{point}-{round(100 * rate)}"


def order_branch(order: str) -> str:
    """Return the branch of an order."""
    return f"order-{order}"


def sequential_stacks(shop: Workshop) -> list[tuple[str, StackConfig]] | None:
    """Return the base and the one adapter after every stage; None if it has not gone all the way."""
    rate = best_rate(shop, "sequential")
    found = [] if rate is None else [shop.held(rate_branch(place, rate)) for place in range(len(STAGES))]
    stacks = [stack for stack in found if stack is not None]
    if len(stacks) < len(STAGES):
        return None
    return [("base", shop.bare), *((f"+{stage.name}", stack) for stage, stack in zip(STAGES, stacks, strict=True))]


def joint_stack(shop: Workshop, point: int) -> StackConfig | None:
    """Return joint training's stack at a point; None if it has not been there."""
    rate = best_rate(shop, "joint")
    return None if rate is None else shop.held(joint_branch(point, rate))


def _rates(shop: Workshop, kind: str) -> tuple[float, ...]:
    return shop.plan.joint_rates if kind == "joint" else shop.plan.sequential_rates


def _settled_rate(shop: Workshop, kind: str) -> float:
    rate = best_rate(shop, kind)
    if rate is None:
        first = shop.plan.seeds[0]
        raise UsageError(f"seed {first} has not chosen {kind} training's rate", hint="run the parts joint, sequential")
    return rate


def _grow(shop: Workshop, stage: Stage) -> None:
    project = shop.on("lamina")
    if any(entry.name == stage.name for entry in project.stack().layers):
        return
    recipe, started = shop.recipe, time.perf_counter()
    guards = guards_of(stage)
    if stage.is_update:
        update(project, [shop.file("grown", stage.skill)], recipe=recipe, origins={}, guards=guards, accept=True)
    else:
        data = shop.prepared(shop.rows_of(stage), recipe)
        train_layer(project, data, name=stage.name, recipe=recipe, origins={}, guards=guards, accept=True)
    shop.write_note(f"lamina-{stage.name}", {"wall_s": time.perf_counter() - started})


def _score_lamina(shop: Workshop) -> None:
    stack = shop.on("lamina").stack()
    shop.score(prefixes(stack), (*SKILLS, *GUARDS))
    _score_svamp(shop, [("base", shop.bare), ("lamina", stack)])


def _score_svamp(shop: Workshop, stacks: Sequence[tuple[str, StackConfig]]) -> None:
    if shop.plan.svamp:
        shop.score(stacks, (SVAMP,))


def _joint_step(shop: Workshop, point: int, rate: float | None) -> Step:
    rows = sum(_rows(shop, stage) for stage in STAGES[:point])
    label = f"joint at {point}" + ("" if rate is None else f", rate x {rate:g}")
    return Step(label, _training_s(shop, rows), partial(_join, shop, point, rate))


def _join(shop: Workshop, point: int, rate: float | None) -> None:
    rate = _settled_rate(shop, "joint") if rate is None else rate
    branch = joint_branch(point, rate)
    if shop.held(branch) is not None:
        return
    recipe = joint_recipe(shop, point, rate)
    shop.keep(branch, shop.grown(shop.bare, shop.file("joint", str(point)), "joint", recipe))


def _score_joint(shop: Workshop, point: int) -> None:
    stack = joint_stack(shop, point)
    assert stack is not None
    shop.score([(f"joint at {point}", stack)], (*SKILLS, *(GUARDS if point == LAST else ())))
    if point == LAST:
        _score_svamp(shop, [("joint", stack)])


def _sequential_step(shop: Workshop, place: int, rate: float | None) -> Step:
    stage = STAGES[place]
    label = f"sequential {stage.name}" + ("" if rate is None else f", rate x {rate:g}")
    return Step(label, _training_s(shop, _rows(shop, stage)), partial(_continue, shop, place, rate))


def _continue(shop: Workshop, place: int, rate: float | None) -> None:
    continue_adapter(shop, place, _settled_rate(shop, "sequential") if rate is None else rate)


def _score_sequential(shop: Workshop) -> None:
    stacks = sequential_stacks(shop)
    assert stacks is not None
    shop.score(stacks, SKILLS)
    shop.score([stacks[0], stacks[-1]], GUARDS)


def _dev_step(shop: Workshop, kind: str, branches: Sequence[str]) -> Step:
    def run() -> None:
        stacks = [(branch, stack) for branch in branches if (stack := shop.held(branch)) is not None]
        shop.score(stacks, [dev_suite(name) for name in SKILLS])

    return Step(f"{kind} rates on dev rows", _ITEM_S * shop.plan.cut.dev * FOUR * len(branches), run)


def _pile(shop: Workshop, order: str, height: int) -> None:
    """Put the order's next layer on top; what the same order's beginning gave before is found again."""
    branch = order_branch(order)
    stack = shop.held(branch) or shop.bare
    if len(stack.layers) >= height:
        return
    name = _BY_LETTER[order[height - 1]]
    shop.keep(branch, shop.grown(stack, shop.file("first", name), name, shop.recipe))


def _score_order(shop: Workshop, order: str) -> None:
    stack = shop.held(order_branch(order))
    assert stack is not None
    shop.score([(order, stack)], SKILLS)


def _rows(shop: Workshop, stage: Stage) -> int:
    return shop.plan.cut.added(stage.skill) if stage.is_update else shop.plan.cut.rows


def _items(shop: Workshop) -> int:
    return FOUR * shop.plan.cut.test


def _training_s(shop: Workshop, rows: int) -> float:
    return _ROW_S * max(rows, _FEWEST_ROWS)
