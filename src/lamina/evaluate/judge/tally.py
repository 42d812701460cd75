"""What a judge's verdicts come to, and how far they can be trusted. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.evaluate.judge.cases import Case, PairVerdict, Rated
from lamina.evaluate.length import length_controlled
from lamina.evaluate.relative import relative_quality
from lamina.evaluate.reviews import Review
from lamina.evaluate.statistics.intervals import interval
from lamina.records import Quality

__all__ = ["Graded", "Share", "Tally", "grade", "tally"]


@dataclass(frozen=True, slots=True)
class Share:
    """A number with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Stack a beside stack b.

    Attributes:
        wins: cases that a wins in both orders; ``losses`` those that b does; ``ties`` the rest of the judged.
        unjudged: cases without a verdict in at least one order, which count nowhere else.
        win_rate: share of wins, ties as half; None if nothing was judged, like all that follow.
        length_controlled: the win rate that answers of equal length would have.
        agreement: share of cases with the same verdict in both orders: the judge's consistency.
        position_bias: share of verdicts for whoever is shown first, minus that for whoever is second; 0 is none.
        problems: one line for each verdict that is missing.
    """

    wins: int
    losses: int
    ties: int
    unjudged: int
    win_rate: Share | None
    length_controlled: Share | None
    agreement: Share | None
    position_bias: Share | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """Two stacks' answers, graded one by one.

    Attributes:
        means: mean grade of each stack, 1 to 10, over the cases in which both were graded.
        wins: cases in which the first stack's grade is higher; ``losses`` and ``ties`` likewise.
        unjudged: cases with a grade missing, which count nowhere else.
        quality: percent of the better stack's summed grades; empty if nothing was graded.
        grades: (case, grade, grade) for each case that counts.
        problems: one line for each grade that is missing.
    """

    means: tuple[Share, Share] | None
    wins: int
    losses: int
    ties: int
    unjudged: int
    quality: tuple[Quality, ...]
    grades: tuple[tuple[str, float, float], ...]
    problems: tuple[str, ...]


def grade(stacks: tuple[str, str], cases: Sequence[str], rated: Sequence[Rated]) -> Graded:
    """Return what the grades come to; ``rated`` holds the first stack's and the second's for each case in turn."""
    pairs = list(zip(cases, rated[::2], rated[1::2], strict=True))
    graded = tuple(
        (name, ours.rating, theirs.rating)
        for name, ours, theirs in pairs
        if ours.rating is not None and theirs.rating is not None
    )
    reviews = [Review(name, *stacks, ours, theirs) for name, ours, theirs in graded]
    return Graded(
        means=(_mean_grade([ours for _, ours, _ in graded]), _mean_grade([theirs for *_, theirs in graded]))
        if graded
        else None,
        wins=sum(ours > theirs for _, ours, theirs in graded),
        losses=sum(ours < theirs for _, ours, theirs in graded),
        ties=sum(ours == theirs for _, ours, theirs in graded),
        unjudged=len(pairs) - len(graded),
        quality=relative_quality(reviews) if reviews and stacks[0] != stacks[1] else (),
        grades=graded,
        problems=tuple(each.problem for each in rated if each.problem),
    )


def tally(cases: Sequence[Case], verdicts: Sequence[PairVerdict]) -> Tally:
    """Return what the verdicts on ``cases`` come to."""
    judged: list[tuple[float, int, int, int]] = []
    lengths: Mapping[str, int] = {case.name: len(case.a) - len(case.b) for case in cases}
    for verdict in verdicts:
        value = verdict.value
        if value is not None and verdict.a_first is not None and verdict.a_second is not None:
            judged.append((value, verdict.a_first, verdict.a_second, lengths[verdict.name]))
    values = [value for value, *_ in judged]
    agreed = [float(first == second) for _, first, second, _ in judged]
    # Shown first, a wins with +1; shown second, b is first and wins with -1.
    leaning = [(first - second) / 2 for _, first, second, _ in judged]
    return Tally(
        wins=values.count(1.0),
        losses=values.count(0.0),
        ties=values.count(0.5),
        unjudged=len(verdicts) - len(judged),
        win_rate=_share(values),
        length_controlled=Share(*length_controlled(values, [gap for *_, gap in judged])) if judged else None,
        agreement=_share(agreed),
        position_bias=_signed_share(leaning),
        problems=tuple(problem for verdict in verdicts for problem in verdict.problems),
    )


def _share(values: Sequence[float]) -> Share | None:
    return Share(*interval(values)) if values else None


def _signed_share(values: Sequence[float]) -> Share | None:
    """Return mean and interval of values in -1..1, by way of 0..1."""
    if not values:
        return None
    return Share(*(2 * bound - 1 for bound in interval([(value + 1) / 2 for value in values])))


def _mean_grade(grades: Sequence[float]) -> Share:
    """Return mean and interval of grades of 1 to 10, by way of 0..1."""
    return Share(*(1 + 9 * bound for bound in interval([(each - 1) / 9 for each in grades])))
