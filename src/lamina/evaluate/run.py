"""Running a suite on a base with whatever layers are attached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lamina.data.render import Renderer
from lamina.errors import DataError, StackError
from lamina.evaluate.choices import Exact, choice_rows, weigh_choices
from lamina.evaluate.instructions import followed
from lamina.evaluate.scorers import find_scorer, likelihood_value
from lamina.evaluate.similarity import corpus_figures
from lamina.evaluate.statistics import interval
from lamina.evaluate.suites import Item, Suite
from lamina.infer.generate import greedy_answers
from lamina.infer.score import rolling_windows, score_rows
from lamina.model.base import LoadedBase
from lamina.model.template import PLAIN_TEMPLATE
from lamina.records import Conversation, Message, Score, Tick, TokenRow

__all__ = ["run_suite"]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a suite's items: a value each (NaN: it does not fit), the answers, and further figures."""

    values: list[float]
    answers: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)


def run_suite(base: LoadedBase, suite: Suite, tick: Tick, exact: Exact | None = None) -> Score:
    """Return the score of ``base`` on ``suite``. ``tick`` advances by one per item.

    Items longer than the base's context are not scored: their values are NaN, and they are counted.

    Args:
        base: the base with whatever layers are attached.
        suite: the suite.
        tick: advances by one per item.
        exact: returns the same stack in float32, for choices that bfloat16 cannot tell apart.

    Raises:
        DataError: if no item fits the base's context.
        StackError: if the suite asks for a chat template and the base has none.
    """
    if suite.template == "chat" and base.template == PLAIN_TEMPLATE:
        raise StackError(
            f"suite '{suite.name}' asks through a chat template, and the base has none",
            hint='set base.template in lamina.toml, or template = "plain" in the suite',
        )
    renderer = Renderer(base.tokenizer, base.template)
    match find_scorer(suite.scorer).run:
        case "choice":
            outcome = _choose(base, renderer, suite, tick, exact)
        case "likelihood":
            outcome = _weigh_references(base, renderer, suite, tick)
        case "text":
            outcome = _weigh_texts(base, renderer, suite, tick)
        case "answer":
            outcome = _answer(base, renderer, suite, tick)
    scored = [value for value in outcome.values if not math.isnan(value)]
    if not scored:
        raise DataError(
            f"suite '{suite.name}'",
            f"all {len(suite.items)} items are longer than the base's context of {base.context} tokens",
            hint="shorten the items or their shots, or lower max_tokens",
        )
    mean, low, high = interval(scored)
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
        figures=outcome.figures,
    )


def _choose(base: LoadedBase, renderer: Renderer, suite: Suite, tick: Tick, exact: Exact | None) -> _Outcome:
    rows = [choice_rows(renderer, suite, item) for item in suite.items]
    fitting = [place for place, own in enumerate(rows) if max(len(row.ids) for row in own) <= base.context]
    tick(len(rows) - len(fitting))
    items = [suite.items[place] for place in fitting]
    weighed = weigh_choices(base, [rows[place] for place in fitting], items, tick, exact)
    found = {
        metric: [each.value(metric, item.gold) for each, item in zip(weighed, items, strict=True)]
        for metric in ("acc", "acc_norm")
    }
    figures = {metric: _mean(values) for metric, values in found.items()}
    return _Outcome(_spread(found[suite.metric], fitting, len(rows)), figures=figures)


def _answer(base: LoadedBase, renderer: Renderer, suite: Suite, tick: Tick) -> _Outcome:
    encode = base.tokenizer.encode
    prompts = [_prompt(renderer, suite, item) for item in suite.items]
    fitting = [place for place, ids in enumerate(prompts) if len(ids) + suite.max_tokens <= base.context]
    tick(len(prompts) - len(fitting))
    items = [suite.items[place] for place in fitting]
    is_text = suite.scorer != "instructions"
    guesses = [encode(item.reference, add_special_tokens=False) if is_text else [] for item in items]
    asked = [prompts[place] for place in fitting]
    ids = greedy_answers(base, asked, max_tokens=suite.max_tokens, guesses=guesses, tick=tick)
    said = [_cut(renderer.text(answer), suite) for answer in ids]
    score, rules = find_scorer(suite.scorer).score, suite.rules
    assert score is not None
    values = [score(answer, item.reference, rules) for answer, item in zip(said, items, strict=True)]
    figures = corpus_figures(suite.scorer, said, [item.reference for item in items])
    if suite.scorer == "instructions":
        single = [each for answer, item in zip(said, items, strict=True) for each in followed(answer, item.reference)]
        figures["instruction_level"] = _mean(single)
    answers = dict(zip(fitting, said, strict=True))
    return _Outcome(
        _spread(values, fitting, len(prompts)), [answers.get(place, "") for place in range(len(prompts))], figures
    )


def _prompt(renderer: Renderer, suite: Suite, item: Item) -> list[int]:
    if not suite.is_plain:
        return renderer.prompt((*(turn for shot in suite.shots for turn in shot.solved()), *item.prompt))
    shown = "".join(f"{shot.prompt[-1].content}\n{shot.reference}\n\n" for shot in suite.shots)
    text = f"{shown}{item.prompt[-1].content}\n"
    return renderer.bos() + renderer.tokenizer.encode(text, add_special_tokens=False)


def _cut(answer: str, suite: Suite) -> str:
    # A base that is asked in running text goes on with questions of its own.
    return answer.split("\n\n")[0] if suite.is_plain else answer


def _weigh_references(base: LoadedBase, renderer: Renderer, suite: Suite, tick: Tick) -> _Outcome:
    rows = [renderer.row(_with_answer(suite, item), max_length=1 << 30) for item in suite.items]
    if suite.shots:  # the shots are answers too, which are not asked for
        rows = [_last_answer(row) for row in rows]
    fitting = [place for place, row in enumerate(rows) if len(row.ids) <= base.context]
    tick(len(rows) - len(fitting))
    scores = score_rows(base, [rows[place] for place in fitting], tick)
    total = math.fsum(math.fsum(each) for each in scores)
    count = sum(map(len, scores))
    figures = {"nats_per_token": -total / count} if count else {}
    return _Outcome(_spread([likelihood_value(each) for each in scores], fitting, len(rows)), figures=figures)


def _weigh_texts(base: LoadedBase, renderer: Renderer, suite: Suite, tick: Tick) -> _Outcome:
    """Weigh whole texts, however long, by windows: a value is the geometric mean probability of a byte."""
    start = next(iter(renderer.bos() or sorted(base.stop_ids)), 0)
    texts = ["\n".join([*(turn.content for turn in item.prompt), item.reference]) for item in suite.items]
    encoded = [base.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    windows = [list(rolling_windows(ids, start, base.context)) for ids in encoded]
    scores = iter(score_rows(base, [window for own in windows for window in own]))
    totals = [math.fsum(math.fsum(next(scores)) for _ in own) for own in windows]
    tick(len(texts))
    lengths = [len(text.encode()) for text in texts]
    total, tokens, size = math.fsum(totals), sum(map(len, encoded)), sum(lengths)
    figures = {
        "token_perplexity": math.exp(-total / tokens),
        "byte_perplexity": math.exp(-total / size),
        "bits_per_byte": -total / size / math.log(2),
    }
    return _Outcome([math.exp(each / length) for each, length in zip(totals, lengths, strict=True)], figures=figures)


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


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
