"""Running a suite on a base with whatever layers are attached."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from lamina.data.render import Renderer
from lamina.errors import DataError, StackError
from lamina.evaluate.choices import Exact, choice_rows, weigh_choices
from lamina.evaluate.instructions import followed
from lamina.evaluate.scorers import find_scorer, likelihood_value
from lamina.evaluate.similarity import corpus_figures
from lamina.evaluate.statistics.intervals import interval
from lamina.evaluate.suites import Item, Suite
from lamina.evaluate.watch import GuardWatch
from lamina.infer.generate import greedy_answers
from lamina.infer.score import rolling_windows, score_rows
from lamina.model.base import LoadedBase
from lamina.model.template import PLAIN_TEMPLATE
from lamina.records import Conversation, Message, Score, Tick, TokenRow

__all__ = ["Judge", "run_suite", "watch_suite"]

# From items and the answers to them to a value each, 0 to 1; NaN where there is no verdict.
Judge = Callable[[Sequence[Item], Sequence[str]], list[float]]

# Items between two looks at a guard: enough to fill packs, few enough to stop soon.
_LOOK = 128


@dataclass(frozen=True, slots=True)
class _Job:
    """What all items of a run share."""

    base: LoadedBase
    renderer: Renderer
    suite: Suite
    tick: Tick
    exact: Exact | None
    judge: Judge | None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of items: value (NaN: it does not fit), the reference's NLL and answer each; sums over all."""

    values: list[float]
    nll: list[float]
    answers: list[str] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)


def run_suite(
    base: LoadedBase, suite: Suite, tick: Tick, exact: Exact | None = None, judge: Judge | None = None
) -> Score:
    """Return the score of ``base`` on ``suite``. ``tick`` advances by one per item.

    Items longer than the base's context are not scored: their values are NaN, and they are counted.

    Args:
        base: the base with whatever layers are attached.
        suite: the suite.
        tick: advances by one per item.
        exact: returns the same stack in float32, for choices that bfloat16 cannot tell apart.
        judge: what a ``judged`` suite asks; an item without a verdict is not scored.

    Raises:
        DataError: if no item fits the base's context, or none got a verdict.
        StackError: if the suite asks for a chat template and the base has none.
    """
    job = _open_job(base, suite, tick, exact, judge)
    return _score(job, _run(job, suite.items))


def watch_suite(
    base: LoadedBase,
    suite: Suite,
    watch: GuardWatch,
    tick: Tick,
    exact: Exact | None = None,
    judge: Judge | None = None,
) -> Score | None:
    """Return the same score, or None as soon as ``watch`` has proof of harm; what it has seen is in ``watch``.

    Items go in an order drawn from the suite's digest, whole clusters at a time, since the proof holds only if the
    order has nothing to do with the items.

    Args:
        base: the base with the parent stack and the new layer attached.
        suite: the guard.
        watch: knows the parent's score.
        tick: advances by one per item.
        exact: as for ``run_suite``.
        judge: as for ``run_suite``.

    Raises:
        DataError: if no item fits the base's context, or none got a verdict.
        StackError: if the suite asks for a chat template and the base has none.
    """
    job = _open_job(base, suite, tick, exact, judge)
    parts: list[_Outcome] = []
    order = _draw_order(suite)
    for start in range(0, len(order), _LOOK):
        places = order[start : start + _LOOK]
        parts.append(_run(job, [suite.items[place] for place in places]))
        if watch.see(dict(zip(places, parts[-1].values, strict=True))):
            return None
    return _score(job, _join(parts, order))


def _open_job(base: LoadedBase, suite: Suite, tick: Tick, exact: Exact | None, judge: Judge | None) -> _Job:
    if suite.template == "chat" and base.template == PLAIN_TEMPLATE:
        raise StackError(
            f"suite '{suite.name}' asks through a chat template, and the base has none",
            hint='set base.template in lamina.toml, or template = "plain" in the suite',
        )
    once = None if exact is None else functools.cache(exact)
    return _Job(base, Renderer(base.tokenizer, base.template), suite, tick, once, judge)


def _run(job: _Job, items: Sequence[Item]) -> _Outcome:
    match find_scorer(job.suite.scorer).run:
        case "choice":
            return _choose(job, items)
        case "likelihood":
            return _weigh_references(job, items)
        case "text":
            return _weigh_texts(job, items)
        case "answer":
            return _answer(job, items)


def _draw_order(suite: Suite) -> list[int]:
    clusters = suite.clusters or tuple(map(str, range(len(suite.items))))
    members: dict[str, list[int]] = {}
    for place, cluster in enumerate(clusters):
        members.setdefault(cluster, []).append(place)
    names = list(members)
    random.Random(suite.digest).shuffle(names)
    return [place for name in names for place in members[name]]


def _join(parts: Sequence[_Outcome], order: Sequence[int]) -> _Outcome:
    """Return the outcome of all items in the suite's order."""
    back = sorted(range(len(order)), key=order.__getitem__)
    values, nll, answers = (
        [each for part in parts for each in getattr(part, name)] for name in ("values", "nll", "answers")
    )
    return _Outcome(
        [values[place] for place in back],
        [nll[place] for place in back],
        [answers[place] for place in back] if answers else [],
        {name: math.fsum(part.sums[name] for part in parts) for name in parts[0].sums},
    )


def _score(job: _Job, outcome: _Outcome) -> Score:
    suite = job.suite
    scored = [place for place, value in enumerate(outcome.values) if not math.isnan(value)]
    if not scored:
        raise DataError(
            f"suite '{suite.name}'",
            f"all {len(suite.items)} items are longer than the base's context of {job.base.context} tokens"
            + (", or without a verdict" if suite.scorer == "judged" else ""),
            hint="shorten the items or their shots, or lower max_tokens",
        )
    clusters = suite.clusters
    mean, low, high = interval(
        [outcome.values[place] for place in scored], [clusters[place] for place in scored] if clusters else ()
    )
    return Score(
        suite=suite.name,
        mean=mean,
        low=low,
        high=high,
        n=len(scored),
        items_digest=suite.digest,
        values=tuple(outcome.values),
        answers=tuple(outcome.answers),
        unscored=len(outcome.values) - len(scored),
        figures=_figures(suite, outcome, scored),
        nll=tuple(outcome.nll),
        clusters=clusters,
    )


def _figures(suite: Suite, outcome: _Outcome, scored: Sequence[int]) -> dict[str, float]:
    """Return what else the field reports, from sums over the items."""
    sums = outcome.sums
    match suite.scorer:
        case "choice":
            return {metric: sums[metric] / len(scored) for metric in ("acc", "acc_norm")}
        case "likelihood":
            return {"nats_per_token": sums["nats"] / sums["tokens"]}
        case "perplexity":
            return {
                "token_perplexity": math.exp(sums["nats"] / sums["tokens"]),
                "byte_perplexity": math.exp(sums["nats"] / sums["bytes"]),
                "bits_per_byte": sums["nats"] / sums["bytes"] / math.log(2),
            }
        case "instructions":
            return {"instruction_level": sums["followed"] / sums["instructions"]}
    said = [outcome.answers[place] for place in scored]
    return corpus_figures(suite.scorer, said, [suite.items[place].reference for place in scored])


def _choose(job: _Job, items: Sequence[Item]) -> _Outcome:
    rows = [choice_rows(job.renderer, job.suite, item) for item in items]
    fitting = [place for place, own in enumerate(rows) if max(len(row.ids) for row in own) <= job.base.context]
    job.tick(len(rows) - len(fitting))
    fit = [items[place] for place in fitting]
    weighed = weigh_choices(
        job.base, [rows[place] for place in fitting], fit, job.tick, metric=job.suite.metric, exact=job.exact
    )
    found = {
        metric: [each.value(metric, item.gold) for each, item in zip(weighed, fit, strict=True)]
        for metric in ("acc", "acc_norm")
    }
    nll = [-each.log_probs[item.gold] / each.tokens[item.gold] for each, item in zip(weighed, fit, strict=True)]
    return _Outcome(
        _spread(found[job.suite.metric], fitting, len(rows)),
        _spread(nll, fitting, len(rows)),
        sums={metric: math.fsum(values) for metric, values in found.items()},
    )


def _answer(job: _Job, items: Sequence[Item]) -> _Outcome:
    base, suite = job.base, job.suite
    prompts = [_prompt(job.renderer, suite, item) for item in items]
    fitting = [place for place, ids in enumerate(prompts) if len(ids) + suite.max_tokens <= base.context]
    job.tick(len(prompts) - len(fitting))
    fit = [items[place] for place in fitting]
    is_text = suite.scorer != "instructions"
    guesses = [base.tokenizer.encode(item.reference, add_special_tokens=False) if is_text else [] for item in fit]
    nll: dict[int, float] = {}

    def weigh(place: int, log_probs: list[float]) -> None:
        nll[fitting[place]] = -math.fsum(log_probs) / len(log_probs)

    asked = [prompts[place] for place in fitting]
    ids = greedy_answers(base, asked, max_tokens=suite.max_tokens, guesses=guesses, tick=job.tick, weigh=weigh)
    said = [_cut(job.renderer.text(answer), suite) for answer in ids]
    values = _values(job, fit, said)
    single = (
        [] if is_text else [e for answer, item in zip(said, fit, strict=True) for e in followed(answer, item.reference)]
    )
    answers = dict(zip(fitting, said, strict=True))
    return _Outcome(
        _spread(values, fitting, len(prompts)),
        [nll.get(place, math.nan) for place in range(len(prompts))],
        [answers.get(place, "") for place in range(len(prompts))],
        {"followed": math.fsum(single), "instructions": len(single)},
    )


def _values(job: _Job, items: Sequence[Item], said: Sequence[str]) -> list[float]:
    score, rules = find_scorer(job.suite.scorer).score, job.suite.rules
    if score is not None:
        return [score(answer, item.reference, rules) for answer, item in zip(said, items, strict=True)]
    assert job.judge is not None
    return job.judge(items, said)


def _prompt(renderer: Renderer, suite: Suite, item: Item) -> list[int]:
    if not suite.is_plain:
        return renderer.prompt((*(turn for shot in suite.shots for turn in shot.solved()), *item.prompt))
    shown = "".join(f"{shot.prompt[-1].content}\n{shot.reference}\n\n" for shot in suite.shots)
    text = f"{shown}{item.prompt[-1].content}\n"
    return renderer.bos() + renderer.tokenizer.encode(text, add_special_tokens=False)


def _cut(answer: str, suite: Suite) -> str:
    # A base that is asked in running text goes on with questions of its own.
    return answer.split("\n\n")[0] if suite.is_plain else answer


def _weigh_references(job: _Job, items: Sequence[Item]) -> _Outcome:
    rows = [job.renderer.row(_with_answer(job.suite, item), max_length=1 << 30) for item in items]
    if job.suite.shots:  # the shots are answers too, which are not asked for
        rows = [_last_answer(row) for row in rows]
    fitting = [place for place, row in enumerate(rows) if len(row.ids) <= job.base.context]
    job.tick(len(rows) - len(fitting))
    scores = score_rows(job.base, [rows[place] for place in fitting], job.tick)
    return _Outcome(
        _spread([likelihood_value(each) for each in scores], fitting, len(rows)),
        _spread([-math.fsum(each) / len(each) for each in scores], fitting, len(rows)),
        sums={"nats": -math.fsum(math.fsum(each) for each in scores), "tokens": sum(map(len, scores))},
    )


def _weigh_texts(job: _Job, items: Sequence[Item]) -> _Outcome:
    """Weigh whole texts, however long, by windows: a value is the geometric mean probability of a byte."""
    base = job.base
    start = next(iter(job.renderer.bos() or sorted(base.stop_ids)), 0)
    texts = ["\n".join([*(turn.content for turn in item.prompt), item.reference]) for item in items]
    encoded = [base.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    windows = [list(rolling_windows(ids, start, base.context - 1)) for ids in encoded]
    scores = iter(score_rows(base, [window for own in windows for window in own]))
    totals = [math.fsum(math.fsum(next(scores)) for _ in own) for own in windows]
    job.tick(len(texts))
    lengths = [len(text.encode()) for text in texts]
    return _Outcome(
        [math.exp(total / length) for total, length in zip(totals, lengths, strict=True)],
        [-total / len(ids) for total, ids in zip(totals, encoded, strict=True)],
        sums={"nats": -math.fsum(totals), "tokens": sum(map(len, encoded)), "bytes": sum(lengths)},
    )


def _with_answer(suite: Suite, item: Item) -> Conversation:
    if not item.prompt:
        return Conversation(text=item.reference)
    turns = tuple(turn for shot in suite.shots for turn in shot.solved())
    return Conversation((*turns, *item.prompt, Message("assistant", item.reference)))


def _last_answer(row: TokenRow) -> TokenRow:
    end = max(place for place, flag in enumerate(row.trained) if flag)
    start = next((place for place in range(end, -1, -1) if not row.trained[place]), 0)
    return TokenRow(row.ids, tuple(start < place <= end for place in range(len(row.ids))))


def _spread(values: Sequence[float], places: Sequence[int], count: int) -> list[float]:
    known = dict(zip(places, values, strict=True))
    return [known.get(place, math.nan) for place in range(count)]
