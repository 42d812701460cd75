"""What the runs of ``bench/update.py`` gave, read from their projects; nothing is trained or scored here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from figures import Estimate, Terms, average, backward, change, estimate, minus, transfer_of
from runs import FOUR, LAST, ORDERS, dev_losses, guards_of, joint_stack, order_branch, sequential_stacks
from stream import SKILLS
from workshop import GUARDS, POINTS, STAGES, SVAMP, Stage, Workshop

from lamina.evaluate.gate import Verdict, decide
from lamina.evaluate.statistics.paired import better_p, pair
from lamina.ops.costs import point_of
from lamina.ops.evaluate import prefixes
from lamina.records import CostPoint, Matrix
from lamina.stack.layers import read_layer, stack_digest
from lamina.stack.lineage import history
from lamina.stack.manifest import StackConfig

__all__ = ["summarise"]

_UNITS = ("tokens", "flops", "seconds")


def summarise(shops: Sequence[Workshop], gate: dict[str, Any] | None) -> dict[str, Any]:
    """Return the benchmark's figures: of what has not been run yet, None."""
    lamina = [matrix for shop in shops if (matrix := _lamina(shop)) is not None]
    sequential = [matrix for shop in shops if (matrix := _sequential(shop)) is not None]
    joint = [matrix for shop in shops if (matrix := _joint(shop, LAST)) is not None]
    orders = _orders(shops[0])
    figures: dict[str, Any] = {
        "acc_final": _told([average(matrix, -1, SKILLS) for matrix in lamina]),
        "acc_joint": _told([average(matrix, -1, SKILLS) for matrix in joint]),
        "acc_sequential": _told([average(matrix, -1, SKILLS) for matrix in sequential]),
        "acc_base": _told([average(matrix, 0, SKILLS) for matrix in lamina[:1]]),
        "acc_final_minus_joint": _told(_differences(lamina, joint)),
        "acc_final_minus_sequential": _told(_differences(lamina, sequential)),
        "bwt": _told([backward(matrix, own=False) for matrix in lamina]),
        "bwt_sequential": _told([backward(matrix, own=False) for matrix in sequential]),
        "guard_delta": _guards(lamina),
        "guard_delta_sequential": _guards([m for shop in shops if (m := _sequential(shop, GUARDS)) is not None]),
        "update_cost_share": _cost_shares(shops),
        "order_spread": _order_spread(orders),
        "gate_false_accept": _rate(gate, "gate_false_accept"),
        "gate_false_reject": _rate(gate, "gate_false_reject"),
        "svamp": _svamp(shops),
        "seeds": [shop.seed for shop in shops[: len(lamina)]],
    }
    detail = {
        "plan": asdict(shops[0].plan),
        "transfer": {"lamina": list(map(_transfer, lamina)), "sequential": list(map(_transfer, sequential))},
        "rates": {kind: dev_losses(shops[0], kind) for kind in ("joint", "sequential")},
        "staircase": _staircase(shops[0]),
        "orders": {order: estimate([average(matrix, 0, SKILLS)]).to_dict() for order, matrix in orders.items()},
        "matrices": {
            "lamina": [matrix.to_dict() for matrix in lamina],
            "sequential": [matrix.to_dict() for matrix in sequential],
            "joint": [matrix.to_dict() for matrix in joint],
            "orders": {order: matrix.to_dict() for order, matrix in orders.items()},
        },
        "layers": [_layers(shop) for shop in shops],
        "gate": gate,
    }
    return figures | detail


def _told(seeds: Sequence[Terms]) -> dict[str, Any] | None:
    return estimate(seeds).to_dict() if seeds else None


def _differences(ours: Sequence[Matrix], theirs: Sequence[Matrix]) -> list[Terms]:
    pairs = zip(ours, theirs, strict=False)
    return [minus(average(one, -1, SKILLS), average(other, -1, SKILLS)) for one, other in pairs]


def _lamina_stack(shop: Workshop) -> StackConfig | None:
    stack = shop.held("lamina")
    return stack if stack is not None and len(stack.layers) == len(STAGES) else None


def _lamina(shop: Workshop) -> Matrix | None:
    stack = _lamina_stack(shop)
    return None if stack is None else shop.known(prefixes(stack), (*SKILLS, *GUARDS))


def _sequential(shop: Workshop, suites: Sequence[str] = SKILLS) -> Matrix | None:
    stacks = sequential_stacks(shop)
    if stacks is None:
        return None
    return shop.known(stacks if suites is SKILLS else [stacks[0], stacks[-1]], suites)


def _joint(shop: Workshop, point: int) -> Matrix | None:
    stack = joint_stack(shop, point)
    suites = (*SKILLS, *(GUARDS if point == LAST else ()))
    return None if stack is None else shop.known([(f"joint at {point}", stack)], suites)


def _orders(shop: Workshop) -> dict[str, Matrix]:
    found = {order: shop.held(order_branch(order)) for order in ORDERS[: shop.plan.orders]}
    known = {order: shop.known([(order, stack)], SKILLS) for order, stack in found.items() if stack is not None}
    return {order: matrix for order, matrix in known.items() if matrix is not None}


def _order_spread(orders: dict[str, Matrix]) -> dict[str, Any] | None:
    """Return best minus worst with the paired error of those two; being picked as such makes the spread look larger."""
    if len(orders) < 2:
        return None
    terms = {order: average(matrix, 0, SKILLS) for order, matrix in orders.items()}
    ranked = sorted(terms, key=lambda order: estimate([terms[order]]).value)
    spread = estimate([minus(terms[ranked[-1]], terms[ranked[0]])])
    return spread.to_dict() | {"orders": len(orders), "best": ranked[-1], "worst": ranked[0]}


def _guards(matrices: Sequence[Matrix]) -> dict[str, Any] | None:
    """Return the mean change on the guards, and for each the change and the chance of such a loss were there none."""
    if not matrices:
        return None
    found = estimate([change(matrix, GUARDS) for matrix in matrices]).to_dict()
    for name in GUARDS:
        column = matrices[0].suites.index(name)
        losses = [
            better_p(pair(matrix.scores[0][column].values, matrix.scores[-1][column].values).mirrored())
            for matrix in matrices
        ]
        one = estimate([change(matrix, (name,)) for matrix in matrices]).to_dict()
        found[name] = one | {"p_loss": losses, "items": matrices[0].scores[0][column].n}
    return found


def _rate(gate: dict[str, Any] | None, key: str) -> dict[str, Any] | None:
    """Return one of the gate's error rates with its interval; None if no planted layer was of that kind."""
    if not gate or gate[key] is None:
        return None
    low, high = gate[f"{key}_interval"]
    return {"value": gate[key], "low": low, "high": high, "layers": gate[f"{key}_of"]}


def _svamp(shops: Sequence[Workshop]) -> dict[str, Any] | None:
    suite = SVAMP if shops[0].plan.svamp else "reasoning"
    stacks: dict[str, list[StackConfig | None]] = {
        "base": [shops[0].bare],
        "lamina": [_lamina_stack(shop) for shop in shops],
        "joint": [joint_stack(shop, LAST) for shop in shops],
    }
    found: dict[str, Any] = {}
    for name, held in stacks.items():
        pairs = zip(shops, held, strict=False)
        known = [shop.known([(name, stack)], (suite,)) for shop, stack in pairs if stack is not None]
        rows: list[Terms] = [average(matrix, 0, (suite,)) for matrix in known if matrix is not None]
        if rows:
            found[name] = estimate(rows).to_dict() | {"items": rows[0][0][1].n}
    return found.pop("lamina", {}) | found if "lamina" in found else None


def _transfer(matrix: Matrix) -> dict[str, Any]:
    return {
        "all_stages": transfer_of(matrix),
        "four_skills": transfer_of(matrix, FOUR),
        "by_other_skills": estimate([backward(matrix, own=False)]).value,
    }


def _cost(shop: Workshop, stack: StackConfig) -> dict[str, float] | None:
    """Return tokens, floating-point operations and seconds of training a stack's layers."""
    point = _point(shop, stack)
    if point is None:
        return None
    seconds = sum(read_layer(shop.project.store, entry.layer).cost.seconds for entry in stack.layers)
    return {"tokens": float(point.tokens), "flops": point.flops, "seconds": seconds}


def _point(shop: Workshop, stack: StackConfig) -> CostPoint | None:
    known = shop.known([("", stack)], SKILLS)
    return None if known is None else point_of(shop.project, "", stack, known.scores[0])


def _cost_shares(shops: Sequence[Workshop]) -> dict[str, Any] | None:
    """Return what an update took over what training on everything took at the same point, their mean and each."""
    shares = []
    for shop in shops:
        stack = _lamina_stack(shop)
        for point in POINTS[FOUR:] if stack is not None else ():
            joint = joint_stack(shop, point)
            if stack is None or joint is None:
                continue
            before, after, whole = (_cost(shop, each) for each in (stack.prefix(point - 1), stack.prefix(point), joint))
            if before and after and whole:
                share = {unit: (after[unit] - before[unit]) / whole[unit] for unit in _UNITS}
                shares.append({"stage": STAGES[point - 1].name, "seed": shop.seed, **share})
    if not shares:
        return None
    return {unit: sum(each[unit] for each in shares) / len(shares) for unit in _UNITS} | {"updates": shares}


def _staircase(shop: Workshop) -> dict[str, Any]:
    """Return the mean of the four skills over what has been spent so far, for lamina and for retraining each time."""
    lamina, retraining = [], []
    spent = dict.fromkeys(_UNITS, 0.0)
    stack = _lamina_stack(shop)
    for point, stage in zip(POINTS, STAGES, strict=True):
        if stack is not None and (cost := _cost(shop, stack.prefix(point))):
            lamina.append({"point": point, "stage": stage.name, **cost, **_mean(shop, stack.prefix(point))})
        # Nothing is there to be retrained with the first stage: both ways begin with the same layer.
        joint = stack.prefix(1) if point == 1 and stack is not None else joint_stack(shop, point)
        if joint is not None and (cost := _cost(shop, joint)):
            spent = {unit: spent[unit] + cost[unit] for unit in _UNITS}
            retraining.append({"point": point, "stage": stage.name, **spent, **_mean(shop, joint)})
    return {"lamina": lamina, "retraining": retraining}


def _mean(shop: Workshop, stack: StackConfig) -> dict[str, float]:
    matrix = shop.known([("", stack)], SKILLS)
    assert matrix is not None
    found: Estimate = estimate([average(matrix, 0, SKILLS)])
    told = found.to_dict()
    return {"score": told["value"], "low": told["low"], "high": told["high"]}


def _layers(shop: Workshop) -> list[dict[str, Any]]:
    """Return how each of lamina's layers was trained, what the gate says of it, and what the branch's log says."""
    stack, matrix = shop.held("lamina"), _lamina(shop)
    if stack is None or matrix is None:
        return []
    moves = {move.new: move.why for move in history(shop.project.store, "lamina")}
    told = []
    for height, (stage, entry) in enumerate(zip(STAGES, stack.layers, strict=True), 1):
        layer = read_layer(shop.project.store, entry.layer)
        told.append(
            {
                "name": entry.name,
                "seed": shop.seed,
                "scale": entry.scale,
                "rows": len(shop.project.store.read_bytes(layer.rows).splitlines()),
                "recipe": layer.recipe,
                "cost": layer.cost.model_dump(),
                "heldout_loss": [layer.heldout_loss_before, layer.heldout_loss_after],
                "log": moves.get(stack_digest(stack.prefix(height)), ""),
                "wall_s": shop.read_note(f"lamina-{entry.name}").get("wall_s"),
                "verdict": asdict(_verdict(shop, matrix, height, stage)),
            }
        )
    return told


def _verdict(shop: Workshop, matrix: Matrix, height: int, stage: Stage) -> Verdict:
    """Return the gate's verdict of a layer, by the same rule on the same scores as when it came in."""
    before, after = (dict(zip(matrix.suites, matrix.scores[row], strict=True)) for row in (height - 1, height))
    guards = (*GUARDS, *guards_of(stage))
    margins = dict.fromkeys(guards, shop.project.settings.margin)
    return decide(before, after, own=(stage.skill,), guards=guards, margins=margins)
