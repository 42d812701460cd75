"""What is tried when the gate refuses a layer, cheapest first, each only if it can help, each judged by the same gate.

    scale   the same layer with less weight: nothing is trained
    replay  trained anew with three times the replayed rows, the bare base's own writing included
    rate    trained anew at half the learning rate
    squash  the skill's earlier layers leave the stack, and one layer is trained in their place on the rows of all

Several tries on the same items would let more bad layers in than the gate states. So its level is divided beforehand:
half belongs to the layer as it was trained, the rest in equal parts to the remedies that the stack allows. Which
candidates there are follows from data and recipe, never from the gate's items (the smaller scale is chosen on held-out
rows), so whichever are tried, the chance that any bad one gets in is at most the sum of the parts: the level.
docs/design/gate.md derives it, ``bench/evaluation/remedies.py`` simulates it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from lamina.config import Recipe
from lamina.data.identity import row_identity
from lamina.evaluate.gate import LEVEL, Verdict
from lamina.lora.adapter import load_adapter
from lamina.ops.admit import Admission, Attempt, Place, admit
from lamina.ops.costs import layer_size
from lamina.ops.ledger import read_ledger
from lamina.ops.project import Project
from lamina.ops.rows import TrainingData, forgotten_rows, known_rows, render_rows, stored_rows, superseded
from lamina.ops.spending import spending
from lamina.refs import Digest
from lamina.stack.layers import read_layer, stack_digest
from lamina.stack.manifest import LayerConfig, StackConfig, StackEntry
from lamina.stack.order import drop_layer, skill_of
from lamina.stack.store import write_atomically
from lamina.train.passes import mean_loss

__all__ = ["FIRST_SHARE", "Made", "Work", "make_recorded", "mend", "share_level"]

FIRST_SHARE = 0.5
_SCALES = (0.75, 0.5, 0.25)
_BLIND_SCALE = 0.5
_GAIN_KEPT = 0.8
_MORE_REPLAY = 3.0
_LEAST_REPLAY, _FEWEST_ANCHORS = 0.3, 0.15
_MOST_REPLAY = 10.0
_LESS_RATE = 0.5


class Made(Protocol):
    """A layer that was trained, and the scale at which it belongs on its parent."""

    @property
    def layer(self) -> str:
        """Its digest."""

    @property
    def scale(self) -> float:
        """Its weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A layer that is to be made and let in. ``make`` is ``lamina.ops.train.make_layer``."""

    project: Project
    data: TrainingData
    name: str
    recipe: Recipe
    origins: dict[str, str]
    place: Place
    make: Callable[..., Made]

    @property
    def earlier(self) -> list[StackEntry]:
        """The layers of the same skill that the branch holds."""
        stack = self.place.stack
        skill = skill_of(stack, self.name)
        return [entry for entry in stack.layers if skill_of(stack, entry.name) == skill]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """A remedy that can help: what will be done, the tokens it trains, and how to get its candidate."""

    what: str
    make: Callable[[], tuple[str, float]]
    tokens: int = 0
    below: StackConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """A refused layer: what was to be done, what came of it, and why it was refused."""

    work: Work
    layer: str
    scale: float
    config: LayerConfig
    has_lost: bool
    has_not_gained: bool


def share_level(work: Work) -> dict[str, float]:
    """Return the level of the layer as trained (under an empty name) and of every remedy that the stack allows.

    They add up to the gate's level. Empty if there is no suite to ask.
    """
    if not (work.place.own or work.place.guards):
        return {}
    possible = ["scale", "replay", "rate", *(["squash"] if work.earlier else [])]
    return {"": LEVEL * FIRST_SHARE} | dict.fromkeys(possible, LEVEL * (1 - FIRST_SHARE) / len(possible))


def make_recorded(
    work: Work,
    step: str,
    *,
    data: TrainingData,
    name: str,
    recipe: Recipe,
    origins: dict[str, str],
    parent: StackConfig,
) -> Made:
    """Return the layer that ``work.make`` gives, with what it took in the ledger under ``step``."""
    with spending(work.project, step, name, parent) as spent:
        made = work.make(work.project, data, name=name, recipe=recipe, origins=origins, parent=parent)
        spent.own = layer_size(work.project.store, made.layer)
    return made


def mend(work: Work, made: Made, first: Admission, levels: Mapping[str, float]) -> Admission:
    """Return the first admission that a remedy wins, else ``first``; either holds every attempt.

    Args:
        work: what was to be done.
        made: the layer that was refused.
        first: its refusal.
        levels: of ``share_level``.

    Raises:
        StackError: if training diverges, or the branch moved meanwhile.
        KeyboardInterrupt: on Ctrl-C; the same command goes on from there.
    """
    project, verdict = work.project, first.verdict
    assert verdict is not None
    attempts = [Attempt(remedy="", done="as trained", layer=made.layer, scale=made.scale, verdict=verdict)]
    case = _Case(
        work=work,
        layer=made.layer,
        scale=made.scale,
        config=first.config,
        has_lost=any(not each.passed and each.after < each.before for each in verdict.suites if each.role == "guard"),
        has_not_gained=any(not each.passed for each in verdict.suites if each.role == "own"),
    )
    project.progress.note(f"refused: {verdict.refusals}")
    left = project.settings.remedy_budget * first.config.cost.tokens
    for remedy in (name for name in levels if name):
        plan = _PLANS[remedy](case)
        if isinstance(plan, _Plan) and plan.tokens > left:
            plan = f"would train {plan.tokens:,} tokens, {left:,.0f} are left of remedy_budget"
        if isinstance(plan, str):
            project.progress.note(f"remedy {remedy}: not tried, {plan}")
            attempts.append(Attempt(remedy=remedy, done=plan))
            continue
        left -= plan.tokens
        admission, attempt = _try(case, remedy, plan, levels[remedy])
        attempts.append(attempt)
        if admission.accepted:
            return dataclasses.replace(admission, attempts=tuple(attempts))
    return dataclasses.replace(first, attempts=tuple(attempts))


def _try(case: _Case, remedy: str, plan: _Plan, level: float) -> tuple[Admission, Attempt]:
    work, project = case.work, case.work.project
    project.progress.note(f"remedy {remedy}: {plan.what}; {_price(case, plan)}")
    layer, scale = plan.make()
    admission = admit(
        project,
        layer,
        work.place,
        why=f"train {work.name}, {plan.what}",
        accept=False,
        scale=scale,
        below=plan.below,
        level=level,
        remedy=plan.what,
    )
    assert admission.verdict is not None
    project.progress.note(f"remedy {remedy}: {_tell(admission.verdict)}")
    return admission, Attempt(remedy=remedy, done=plan.what, layer=layer, scale=scale, verdict=admission.verdict)


def _price(case: _Case, plan: _Plan) -> str:
    """Return what a remedy will take, from what the same things took so far."""
    gates = [entry for entry in read_ledger(case.work.project.store) if entry.step == "gate"]
    mine = [entry.seconds for entry in gates if entry.layer == case.config.name]
    scoring = f"the gate again, about {mine[0]:.0f} s" if mine else "the gate again"
    if not plan.tokens:
        return f"nothing to train, {scoring}"
    seconds = plan.tokens * case.config.cost.seconds / max(1, case.config.cost.tokens)
    return f"about {plan.tokens:,} tokens of training, {seconds:.0f} s, and {scoring}"


def _tell(verdict: Verdict) -> str:
    if not verdict.accepted:
        return f"refused: {verdict.refusals}"
    moved = [f"{each.role} {each.suite} {(each.after - each.before) * 100:+.1f}" for each in verdict.suites]
    return f"accepted: {', '.join(moved)}"


def _plan_scale(case: _Case) -> _Plan | str:
    """Choose the smallest scale that keeps most of the held-out gain; the gate's items are not looked at."""
    if not (case.has_lost or case.has_not_gained):
        return "no guard lost anything that its items can show: it needs more items, not another layer"
    if not case.work.data.heldout_tokens:
        if not case.has_lost:
            return "no guard lost, and there are no held-out rows to tell that less would be more"
        share = _BLIND_SCALE
    else:
        gains = _heldout_gains(case)
        best = max(gains, key=lambda each: gains[each])
        enough = [each for each in gains if gains[each] >= _GAIN_KEPT * gains[best]] if gains[best] > 0 else [best]
        share = min(enough) if case.has_lost else best
        if share == 1.0:
            return "on held-out rows every smaller scale loses more than a fifth of what the layer gains"
    scale = share * case.scale
    return _Plan(what=f"scale {scale:g}", make=lambda: (case.layer, scale))


def _plan_replay(case: _Case) -> _Plan | str:
    if not case.has_lost:
        return "no guard lost, and replay mends only what was lost"
    recipe = Recipe.recorded(case.config.recipe)
    changes = {"anchors": min(_MOST_REPLAY, max(_FEWEST_ANCHORS, _MORE_REPLAY * recipe.anchors))}
    if case.work.place.stack.layers:
        changes = {"replay": min(_MOST_REPLAY, max(_LEAST_REPLAY, _MORE_REPLAY * recipe.replay))} | changes
    before = {key: getattr(recipe, key) for key in changes}
    tokens = round(case.config.cost.tokens * (1 + sum(changes.values())) / (1 + sum(before.values())))
    what = ", ".join(f"{key} {value:g} instead of {before[key]:g}" for key, value in changes.items())
    return _retrained(case, changes, what, tokens)


def _plan_rate(case: _Case) -> _Plan | str:
    before, after = case.config.heldout_loss_before, case.config.heldout_loss_after
    overtrained = before is not None and after is not None and after > before
    if not (case.has_lost or (case.has_not_gained and overtrained)):
        return "no guard lost, and the held-out loss did not rise"
    rate = Recipe.recorded(case.config.recipe).learning_rate
    what = f"learning rate {_LESS_RATE * rate:g} instead of {rate:g}"
    return _retrained(case, {"learning_rate": _LESS_RATE * rate}, what, case.config.cost.tokens)


def _plan_squash(case: _Case) -> _Plan | str:
    if not (case.has_lost or case.has_not_gained):
        return "nothing was lost and something gained"
    work, store = case.work, case.work.project.store
    layers = [read_layer(store, entry.layer) for entry in work.earlier]
    missing = [layer.name for layer in layers if not stored_rows(store, layer.replay)]
    if missing:
        return f"the rows of {', '.join(missing)} are not here"
    below = work.place.stack
    for entry in work.earlier:
        below = drop_layer(store, below, entry.layer)
    skill = skill_of(work.place.stack, work.name)
    names = ", ".join(layer.name for layer in layers)

    def make() -> tuple[str, float]:
        data = _all_rows(work, layers)
        made = make_recorded(
            work, "remedy", data=data, name=skill, recipe=work.recipe, origins=work.origins, parent=below
        )
        return made.layer, made.scale

    tokens = case.config.cost.tokens + sum(layer.cost.tokens for layer in layers)
    return _Plan(what=f"one layer in place of {names} and the new rows", make=make, tokens=tokens, below=below)


_PLANS: dict[str, Callable[[_Case], _Plan | str]] = {
    "scale": _plan_scale,
    "replay": _plan_replay,
    "rate": _plan_rate,
    "squash": _plan_squash,
}


def _retrained(case: _Case, changes: dict[str, float], what: str, tokens: int) -> _Plan:
    """Return the plan of training the same rows again with the same recipe but for ``changes``."""
    work = case.work
    recipe = Recipe.recorded(case.config.recipe | changes)
    origins = case.config.recipe_origins | dict.fromkeys(changes, "remedy")
    run = partial(make_recorded, work, "remedy", data=work.data, name=work.name, recipe=recipe, origins=origins)

    def make() -> tuple[str, float]:
        made = run(parent=work.place.stack)
        return made.layer, made.scale

    return _Plan(what=what, make=make, tokens=tokens)


def _heldout_gains(case: _Case) -> dict[float, float]:
    """Return by how much the held-out loss falls at each share of the layer's scale, remembered once measured."""
    work, project = case.work, case.work.project
    rows, stack = work.data.heldout_tokens, work.place.stack
    asked = [case.layer, stack_digest(stack), case.scale, [row.ids for row in rows]]
    path = project.store.root / "results" / "verdicts" / f"gains-{Digest.of_bytes(json.dumps(asked).encode()).hex}.json"
    if path.exists():
        return {float(share): gain for share, gain in json.loads(path.read_text("utf-8")).items()}
    adapter = load_adapter(project.store.blob_path(case.config.weights))
    shares = (1.0, *_SCALES)
    total = (1 + len(shares)) * len(rows)
    with (
        spending(project, "remedy", case.config.name, stack),
        project.progress.stage("held-out loss at smaller scales", total=total, unit="rows") as tick,
    ):
        before = mean_loss(project.activate(stack), rows)
        tick(len(rows))
        gains = {}
        for share in shares:
            gains[share] = before - mean_loss(project.activate(stack, top=(adapter, share * case.scale)), rows)
            tick(len(rows), f"{share:g}: {gains[share]:+.3f} nats gained")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(gains).encode())
    return gains


def _all_rows(work: Work, layers: list[LayerConfig]) -> TrainingData:
    """Return the new rows together with the skill's earlier ones, as far as its files or samples hold them.

    Rows that a newer answer has replaced, or that were forgotten, are left out.
    """
    project, data = work.project, work.data
    store = project.store
    seen = known_rows(project, work.place.stack.model_copy(update={"layers": tuple(work.earlier)}))
    heldout = {row_identity(row): row for layer in layers for row in stored_rows(store, layer.heldout)}
    samples = [row for layer in layers for row in stored_rows(store, layer.replay)]
    found = {row_identity(row): row for file in data.files for row in file.rows} | {
        row_identity(row): row for row in samples
    }
    new = (*data.train, *data.heldout)
    out = {row_identity(row) for row in new} | superseded(project, work.place.stack, new) | forgotten_rows(store)
    earlier = [row for key, row in found.items() if key in seen and key not in heldout and key not in out]
    kept = [row for key, row in heldout.items() if key not in out]
    longest = min(work.recipe.max_length or project.loaded.context, project.loaded.context)
    return TrainingData(
        data.files,
        (*data.train, *earlier),
        (*data.heldout, *kept),
        (*data.train_tokens, *render_rows(project, earlier, longest)),
        (*data.heldout_tokens, *render_rows(project, kept, longest)),
    )
