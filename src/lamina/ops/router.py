"""A router from the rows of a stack's layers, the layers that each of its skills is best with, and its use."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.data.identity import row_identity
from lamina.data.render import Renderer
from lamina.errors import StackError
from lamina.evaluate.gate import LEVEL
from lamina.evaluate.statistics.paired import mean_p, pair
from lamina.infer.embed import embed_prompts
from lamina.infer.score import score_rows
from lamina.ops.measure import rendered
from lamina.ops.project import Project
from lamina.ops.route import enabled_router, routed_stack, select
from lamina.ops.rows import spread, stored_rows
from lamina.records import Conversation, Message, Progress, Quiet
from lamina.refs import Digest
from lamina.route.classifier import Points, fit
from lamina.route.keep import tensor_bytes, write_router
from lamina.route.router import READ_TOKENS, Router, RouterRecord, SkillRoute, set_limits
from lamina.stack.layers import read_layer, stack_digest
from lamina.stack.manifest import StackConfig, StackEntry
from lamina.stack.order import skill_of

__all__ = [
    "SUM",
    "SkillChoice",
    "TrainedRouter",
    "choose_layers",
    "points_of",
    "train_router",
]

SUM = "(sum)"
_HELDOUT_PER_SKILL = 64
_FEW = 8
_HELD_BACK = 4  # one in so many sampled rows, where nothing else was held out


@dataclass(frozen=True, slots=True, kw_only=True)
class SkillChoice:
    """Which layers answer a skill's prompts, and what each choice gives on its held-out rows.

    Attributes:
        route: the layers chosen.
        losses: nats per trained token, by choice; choices of the same layers are there once.
        p_value: of "the choice is better than the whole stack"; None if it is the whole stack.
        rows: how many held-out rows decided.
    """

    route: SkillRoute
    losses: dict[str, float]
    p_value: float | None
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedRouter:
    """A router that was trained.

    Attributes:
        router: the router, which is in the store.
        digest: its digest.
        seconds: what embedding, fitting and choosing took.
        train_rows: how many prompts it was fitted on.
        confusion: held-out prompts by their skill, and for each where they go; ``SUM`` is no skill.
        accuracy: the share of held-out prompts for which the right skill is the likeliest.
        choices: the layers of each skill.
    """

    router: Router
    digest: str
    seconds: float
    train_rows: int
    confusion: dict[str, dict[str, int]]
    accuracy: float
    choices: tuple[SkillChoice, ...]


@dataclass(frozen=True, slots=True)
class _Rows:
    train: dict[str, list[Conversation]]
    heldout: dict[str, list[Conversation]]


def train_router(project: Project, stack: StackConfig) -> TrainedRouter:
    """Train a router for ``stack`` and keep it.

    It is fitted on the prompts of the layers' sampled rows; held-out rows set its limits and choose the layers.

    Raises:
        StackError: if fewer than two skills have rows here.
    """
    started = time.perf_counter()
    rows = _collect(project, stack)
    skills = list(rows.train)
    train, train_owners = _embed(project, rows.train)
    heldout, owners = _embed(project, rows.heldout)
    classifier = fit(train, train_owners, len(skills))
    least, reach = set_limits(classifier, heldout, owners)
    choices = _choose_layers(project, stack, rows.heldout)
    record = RouterRecord(
        base=project.base.pin.digest,
        stack=stack_digest(stack),
        weights=str(Digest.of_bytes(tensor_bytes(classifier))),
        skills=tuple(choice.route for choice in choices),
        precision=classifier.precision,
        least=least,
        reach=reach,
    )
    router = Router(record, classifier)
    confusion: dict[str, dict[str, int]] = {skill: dict.fromkeys([*skills, SUM], 0) for skill in skills}
    for owner, route in zip(owners, router.routes(heldout), strict=True):
        confusion[skills[owner]][SUM if route.skill is None else route.skill.name] += 1
    likeliest = classifier.probabilities(heldout).argmax(1)
    return TrainedRouter(
        router=router,
        digest=write_router(project.store, router),
        seconds=time.perf_counter() - started,
        train_rows=len(train),
        confusion=confusion,
        accuracy=float((likeliest == owners).mean()),
        choices=tuple(choices),
    )


def choose_layers(project: Project, stack: StackConfig, messages: Sequence[Message]) -> StackConfig | None:
    """Return the stack of those layers of ``stack`` that should answer ``messages``; None if no router is asked.

    The base is left without layers if one is.

    Raises:
        StackError: if the router is missing or damaged.
    """
    router = enabled_router(project.store, project.branch, stack)
    if router is None:
        return None
    (route,) = router.routes(points_of(project, [messages], Quiet()))
    return routed_stack(project.store, stack, route)


def points_of(project: Project, prompts: Sequence[Sequence[Message]], progress: Progress | None = None) -> Points:
    """Return the embeddings of prompts, (N, D), under the bare base; too long ones are read from their end."""
    base = project.activate(project.stack("base"))
    renderer = Renderer(base.tokenizer, base.template)
    most = min(READ_TOKENS, base.context - 1)
    ids = [renderer.prompt(messages)[-most:] for messages in prompts]
    with (progress or project.progress).stage("read prompts", total=len(ids), unit="prompts") as tick:
        return embed_prompts(base, ids, tick)


def _collect(project: Project, stack: StackConfig) -> _Rows:
    """Return the rows with a prompt of every skill that has any: those to fit on, and those held out."""
    train, heldout = dict[str, list[Conversation]](), dict[str, list[Conversation]]()
    for entry in stack.layers:
        layer, skill = read_layer(project.store, entry.layer), skill_of(stack, entry.name)
        train.setdefault(skill, []).extend(_asked(stored_rows(project.store, layer.replay)))
        heldout.setdefault(skill, []).extend(_asked(stored_rows(project.store, layer.heldout)))
    rows = _Rows({}, {})
    for skill, sampled in train.items():
        held = spread(heldout[skill], _HELDOUT_PER_SKILL)
        if len(held) < _FEW and len(sampled) >= 2 * _FEW:
            back = sampled[::_HELD_BACK]
            sampled = [row for place, row in enumerate(sampled) if place % _HELD_BACK]
            held = spread([*held, *back], _HELDOUT_PER_SKILL)
            project.progress.note(f"{skill} has few held-out rows: a quarter of its sampled rows stands in for them")
        if sampled and held:
            rows.train[skill], rows.heldout[skill] = sampled, held
        else:
            project.progress.note(f"{skill} has no rows here that ask something; its prompts go to the whole stack")
    if len(rows.train) < 2:
        raise StackError(
            f"nothing to route between: {len(rows.train)} of the stack's skills have rows here, expected 2 or more",
            hint="train another skill: `lamina train FILE --as NAME`",
        )
    return rows


def _asked(rows: Sequence[Conversation]) -> list[Conversation]:
    return [row for row in rows if any(turn.role == "assistant" for turn in row.messages[1:])]


def _embed(project: Project, rows: Mapping[str, Sequence[Conversation]]) -> tuple[Points, list[int]]:
    """Return the points of all rows' prompts up to their last answers, and each row's skill by number."""
    prompts, owners = [], []
    for owner, own in enumerate(rows.values()):
        for row in sorted(own, key=row_identity):
            last = max(place for place, turn in enumerate(row.messages) if turn.role == "assistant")
            prompts.append(row.messages[:last])
            owners.append(owner)
    return points_of(project, prompts), owners


def _choose_layers(
    project: Project, stack: StackConfig, heldout: Mapping[str, Sequence[Conversation]]
) -> list[SkillChoice]:
    found = []
    with project.progress.stage("choose layers", total=len(heldout), unit="skills") as tick:
        for skill, rows in heldout.items():
            found.append(_choose_for(project, stack, skill, rows))
            tick(1, f"{skill}: {found[-1].route.choice}")
    return found


def _choose_for(project: Project, stack: StackConfig, skill: str, rows: Sequence[Conversation]) -> SkillChoice:
    """Return the choice of least held-out loss if it is shown to be better than the whole stack, else the whole.

    The test is the paired t test over rows at 5 %, divided by the number of choices beside the whole.
    """
    base = project.loaded
    tokens = rendered(base, rows)
    if not tokens:
        raise StackError(f"{skill}: no held-out row fits the base's context", hint="train it on shorter rows")
    losses: dict[str, list[float]] = {}
    choices = _candidates(stack, skill)
    for choice, entries in choices.items():
        project.activate(select(project.store, stack, entries))
        losses[choice] = [-sum(scores) / len(scores) for scores in score_rows(base, tokens)]
    means = {choice: sum(values) / len(values) for choice, values in losses.items()}
    best = min(means, key=lambda choice: means[choice])
    p_value = None if best == "all" else mean_p(pair(losses[best], losses["all"]))
    if p_value is not None and p_value > LEVEL / (len(choices) - 1):
        best, p_value = "all", None
    layers = tuple(entry.layer for entry in choices[best])
    route = SkillRoute.model_validate({"name": skill, "choice": best, "layers": layers})
    return SkillChoice(route=route, losses=means, p_value=p_value, rows=len(tokens))


def _candidates(stack: StackConfig, skill: str) -> dict[str, tuple[StackEntry, ...]]:
    """Return the choices for a skill, each set of layers once.

    A layer was fitted with those below it active, so what the skill was trained on lies below its last layer: its own
    layers alone are what no training has seen, except for layers trained apart.
    """
    own = [place for place, entry in enumerate(stack.layers) if skill_of(stack, entry.name) == skill]
    found = {
        "all": stack.layers,
        "prefix": stack.layers[: own[-1] + 1],
        "own": tuple(stack.layers[place] for place in own),
    }
    firsts = {entries: choice for choice, entries in reversed(found.items())}
    return {choice: entries for choice, entries in found.items() if firsts[entries] == choice}
