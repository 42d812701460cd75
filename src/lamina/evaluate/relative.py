"""Relative quality: how good models are beside one of them, in percent, from sums of a judge's scores.

Two models that were compared have as their ratio the ratio of their summed scores. A model that was never compared with
the reference gets there in steps, ratio times ratio, as in the chart of the Vicuna blog, where every model met Vicuna
and 100 % is ChatGPT: LLaMA-13B = 513/694 x 638/693 = 68 %.

Source: Chiang et al. 2023, "Vicuna: An Open-Source Chatbot", figure 1 and table 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lamina.errors import DataError, UsageError
from lamina.evaluate.reviews import Review
from lamina.records import Quality, Score

__all__ = ["Pair", "relative_quality", "relative_scores", "sum_pairs"]

_RESAMPLES = 2000
_Scores = dict[frozenset[str], dict[str, NDArray[np.float64]]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models over all questions they were compared on: summed scores, and who won how often."""

    first: str
    second: str
    first_sum: float
    second_sum: float
    wins: int
    losses: int
    ties: int


def sum_pairs(reviews: Sequence[Review]) -> tuple[Pair, ...]:
    """Return what every pair of models comes to; wins are the first model's. Models keep the order they came in."""
    grouped: dict[frozenset[str], list[Review]] = {}
    for review in reviews:
        grouped.setdefault(frozenset((review.first, review.second)), []).append(review)
    pairs = []
    for group in grouped.values():
        first, second = group[0].first, group[0].second
        scores = [_ordered(review, first) for review in group]
        pairs.append(
            Pair(
                first,
                second,
                math.fsum(left for left, _ in scores),
                math.fsum(right for _, right in scores),
                wins=sum(left > right for left, right in scores),
                losses=sum(left < right for left, right in scores),
                ties=sum(left == right for left, right in scores),
            )
        )
    return tuple(pairs)


def relative_quality(reviews: Sequence[Review], reference: str | None = None) -> tuple[Quality, ...]:
    """Return every model's quality in percent of the reference's, worst first, with 95 % intervals.

    A model that meets the reference only through others takes the way with the fewest steps; several such ways count by
    their geometric mean. Intervals are percentiles of a bootstrap over questions: all reviews of a question stay
    together, since one question is easy or hard for all models.

    Args:
        reviews: at least one.
        reference: what 100 % means; None takes the best model, so that no other has more.

    Raises:
        UsageError: if there is no such model.
        DataError: if a model never met the others, or has a sum of zero, so that nothing can be a share of it.
    """
    models = sorted({name for review in reviews for name in (review.first, review.second)})
    if reference is not None and reference not in models:
        raise UsageError(f"no reviews of '{reference}'", hint=f"reviewed here: {', '.join(models)}")
    scores, questions = _tabulate(reviews)
    whole = np.ones((1, len(questions)))
    if reference is None:
        from_first = _chain(scores, models, models[0], whole)
        reference = max(models, key=lambda name: (float(from_first[name][0]), name))
    point = _chain(scores, models, reference, whole)
    draws = np.random.default_rng(0).multinomial(
        len(questions), np.full(len(questions), 1 / len(questions)), size=_RESAMPLES
    )
    drawn = _chain(scores, models, reference, draws.astype(np.float64))
    found = [_quality(name, float(point[name][0]), drawn[name]) for name in models]
    return tuple(sorted(found, key=lambda each: (each.percent, each.name)))


def relative_scores(names: Sequence[str], rows: Sequence[Sequence[Score]]) -> tuple[Quality, ...]:
    """Return stacks' qualities in percent of the best one's, in the order given, with 95 % intervals.

    A stack's quality is the mean of its suites, each weighing the same. Intervals are percentiles of a bootstrap over
    items, the same items for all stacks: they tell how sure the ratio is, which the stacks' own intervals do not.

    Args:
        names: the stacks.
        rows: each one's scores on the same suites, item by item.

    Raises:
        ValueError: if no stack scores anything, so that nothing can be a share of it.
    """
    random = np.random.default_rng(0)
    whole = np.zeros(len(rows))
    drawn = np.zeros((_RESAMPLES, len(rows)))
    for column in range(len(rows[0])):
        scores = [row[column] for row in rows]
        whole += [score.mean for score in scores]
        drawn += _resampled_means(scores, random)
    best = int(whole.argmax())
    if whole[best] <= 0:
        raise ValueError("no stack scores anything")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn / drawn[:, [best]]
    return tuple(
        _quality(name, float(ratio), ratios[:, place])
        for place, (name, ratio) in enumerate(zip(names, whole / whole[best], strict=True))
    )


def _resampled_means(scores: Sequence[Score], random: np.random.Generator) -> NDArray[np.float64]:
    """Return (draws, stacks): means over items drawn with replacement, without those that a stack left unscored."""
    values = np.array([score.values for score in scores], dtype=np.float64)
    counts = random.multinomial(values.shape[1], np.full(values.shape[1], 1 / values.shape[1]), size=_RESAMPLES)
    scored = ~np.isnan(values)
    sums = counts @ np.where(scored, values, 0.0).T
    return np.asarray(sums / np.maximum(1, counts @ scored.T), dtype=np.float64)


def _quality(name: str, ratio: float, drawn: NDArray[np.float64]) -> Quality:
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Quality(name, 100 * ratio, min(100 * ratio, 100 * float(low)), max(100 * ratio, 100 * float(high)))


def _ordered(review: Review, first: str) -> tuple[float, float]:
    if review.first == first:
        return review.first_score, review.second_score
    return review.second_score, review.first_score


def _tabulate(reviews: Sequence[Review]) -> tuple[_Scores, list[str]]:
    """Return, for each pair of models, each one's score by question, summed over repeated runs."""
    questions = sorted({review.question for review in reviews})
    place = {question: index for index, question in enumerate(questions)}
    scores: _Scores = {}
    for review in reviews:
        pair = scores.setdefault(frozenset((review.first, review.second)), {})
        for name, score in ((review.first, review.first_score), (review.second, review.second_score)):
            pair.setdefault(name, np.zeros(len(questions)))[place[review.question]] += score
    return scores, questions


def _chain(
    scores: _Scores, models: Sequence[str], reference: str, weights: NDArray[np.float64]
) -> Mapping[str, NDArray[np.float64]]:
    """Return every model's ratio to the reference, once for each row of question weights (draws, questions)."""
    logs = {reference: np.zeros(len(weights))}
    edge = [reference]
    while edge:
        arrived: dict[str, list[NDArray[np.float64]]] = {}
        for near in edge:
            for pair, sides in scores.items():
                far = next(iter(pair - {near}), None)
                if near in pair and far is not None and far not in logs:
                    arrived.setdefault(far, []).append(logs[near] + _log_ratio(sides[far], sides[near], weights))
        logs |= {name: np.mean(ways, axis=0) for name, ways in arrived.items()}
        edge = sorted(arrived)
    apart = [name for name in models if name not in logs]
    if apart:
        problem = f"'{apart[0]}' was never compared with '{reference}', nor with a model that was"
        raise DataError("reviews", problem, hint="add a review file that links them, or leave its file out")
    return {name: np.exp(log) for name, log in logs.items()}


def _log_ratio(
    far: NDArray[np.float64], near: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    above, below = weights @ far, weights @ near
    if len(weights) == 1 and not (above[0] > 0 and below[0] > 0):
        raise DataError("reviews", "a model's scores sum to zero; nothing can be a share of that")
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio: NDArray[np.float64] = np.where((above > 0) & (below > 0), np.log(above) - np.log(below), np.nan)
    return ratio
