"""The rule that lets a layer into a ref: its own skill improves, and no guarded skill gets worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.errors import StackError
from lamina.evaluate.statistics import items_needed, paired_p_value, upper_loss
from lamina.records import Score

__all__ = ["SuiteVerdict", "Verdict", "decide"]

_LEVEL = 0.05


@dataclass(frozen=True, slots=True)
class SuiteVerdict:
    """What one suite says. ``items_needed`` is how many items would show a loss of the margin."""

    suite: str
    role: str
    before: float
    after: float
    p_value: float
    passed: bool
    items_needed: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision and its evidence."""

    accepted: bool
    suites: tuple[SuiteVerdict, ...]


def decide(
    before: Mapping[str, Score],
    after: Mapping[str, Score],
    *,
    own: Sequence[str],
    guards: Sequence[str],
    margin: float,
) -> Verdict:
    """Return whether a layer gets in.

    An own suite passes if it is better by a paired one-sided test at 5 %: a layer that does nothing gets in one time
    in twenty at most. A guard fails if it is worse by the same test, or by more than ``margin`` in its mean; it passes
    for certain if a loss of ``margin`` is ruled out at 95 %, and with a warning if the items are too few to tell. So a
    guard of few items refuses an unchanged layer rarely, and lets a loss near the margin through often: the verdict
    says how many items it would take.

    Args:
        before: scores of the parent stack by suite.
        after: scores of the stack with the layer, on the same items.
        own: suites of the layer's skill.
        guards: suites that must not get worse.
        margin: the loss to rule out, 0..1.

    Raises:
        StackError: if a suite's items differ before and after.
    """
    verdicts = []
    for suite in (*own, *(name for name in guards if name not in own)):
        if before[suite].items_digest != after[suite].items_digest:
            raise StackError(f"suite '{suite}': scored on different items before and after", hint="run `lamina eval`")
        judge = _judge_own if suite in own else _judge_guard
        verdicts.append(judge(before[suite], after[suite], margin))
    return Verdict(all(verdict.passed for verdict in verdicts), tuple(verdicts))


def _judge_own(before: Score, after: Score, margin: float) -> SuiteVerdict:
    p_value = paired_p_value(before.values, after.values)
    passed = p_value <= _LEVEL
    reason = f"{'better' if passed else 'not shown to be better'} (p = {p_value:.2g})"
    return _verdict(before, after, "own", p_value, margin, passed=passed, reason=reason)


def _judge_guard(before: Score, after: Score, margin: float) -> SuiteVerdict:
    p_value = paired_p_value(after.values, before.values)
    if p_value <= _LEVEL or before.mean - after.mean > margin:
        reason = f"worse (p = {p_value:.2g})"
        return _verdict(before, after, "guard", p_value, margin, passed=False, reason=reason)
    shown = upper_loss(before.values, after.values) <= margin
    reason = (
        f"no worse, a loss of {margin:.0%} is ruled out" if shown else "not seen to be worse; too few items to be sure"
    )
    return _verdict(before, after, "guard", p_value, margin, passed=True, reason=reason)


def _verdict(
    before: Score, after: Score, role: str, p_value: float, margin: float, *, passed: bool, reason: str
) -> SuiteVerdict:
    changed = sum(old != new for old, new in zip(before.values, after.values, strict=True)) / len(before.values)
    needed = items_needed(margin, max(changed, margin + math.ulp(1.0)))
    return SuiteVerdict(before.suite, role, before.mean, after.mean, p_value, passed, needed, reason)
