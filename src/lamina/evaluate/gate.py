"""The rule that lets a layer into a ref: its own skill improves, and no guarded skill gets worse."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lamina.errors import StackError
from lamina.evaluate.statistics.loss import change_interval, items_for, loss_p, upper_loss
from lamina.evaluate.statistics.paired import Paired, better_p, mean_p, pair
from lamina.evaluate.watch import GuardWatch
from lamina.records import Score

__all__ = ["DROPS", "LEVEL", "SuiteVerdict", "Verdict", "decide", "improves", "is_kept"]

LEVEL = 0.05
# The regressions for which every verdict says how many items would show them.
DROPS = (0.01, 0.02)
# A warning decides nothing; it should be rare where nothing is wrong.
_WARNING_LEVEL = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteVerdict:
    """What one suite says.

    Attributes:
        suite: its name.
        role: ``own`` (must improve) or ``guard`` (must not get worse).
        before: the parent stack's score.
        after: the score with the layer; of the items seen, where ``stopped_after`` is set.
        change: a 95 % interval of the change.
        p_value: of "it improved" for an own suite, of "it got worse" for a guard.
        passed: whether this suite lets the layer in.
        reason: the same in words.
        items: how many items both stacks scored.
        margin: the loss that a guard must rule out; None for an own suite.
        loss_bound: the largest loss not ruled out at one-sided 95 %.
        items_needed: for each of ``DROPS``, how many items like these show such a loss with power 80 %.
        nll_shift: mean change of the items' negative log-likelihood in nats per token, where both were recorded.
        warning: what the likelihoods say before the scores do, if they say anything.
        stopped_after: after how many items harm was proven and scoring stopped; None if all were scored.
    """

    suite: str
    role: str
    before: float
    after: float
    change: tuple[float, float]
    p_value: float
    passed: bool
    reason: str
    items: int
    margin: float | None
    loss_bound: float
    items_needed: tuple[int, ...]
    nll_shift: float | None = None
    warning: str = ""
    stopped_after: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's decision and its evidence.

    Attributes:
        accepted: whether the layer gets in.
        suites: what each of them says.
        skipped: suites that were not scored, since another had refused already.
        level: the error rate at which the tests that let a layer in were made.
    """

    accepted: bool
    suites: tuple[SuiteVerdict, ...]
    skipped: tuple[str, ...] = ()
    level: float = LEVEL

    @property
    def refusals(self) -> str:
        """What speaks against the layer, in a line: ``guard general -3.1, own tools +0.2`` (points)."""
        against = [
            f"{each.role} {each.suite} {(each.after - each.before) * 100:+.1f}"
            for each in self.suites
            if not each.passed
        ]
        return ", ".join(against)


def decide(
    before: Mapping[str, Score],
    after: Mapping[str, Score],
    *,
    own: Sequence[str],
    guards: Sequence[str],
    margins: Mapping[str, float],
    stopped: Mapping[str, GuardWatch] | None = None,
    level: float = LEVEL,
) -> Verdict:
    """Return whether a layer gets in.

    An own suite passes if it is better by the exact one-sided McNemar test at 5 % (the sign-flip test where items are
    not just right or wrong, or share clusters): a layer that does nothing gets in one time in twenty at most. A guard
    passes if a loss of its margin is ruled out at 5 % (non-inferiority), unless it is also significantly worse: a
    layer that loses the margin gets in one time in twenty at most, on however many guards, since every one of them
    must pass. Of a guard with too few items an unchanged layer cannot pass: the verdict says how many it takes.

    Args:
        before: scores of the parent stack by suite.
        after: scores of the stack with the layer, on the same items.
        own: suites of the layer's skill.
        guards: suites that must not get worse.
        margins: for each guard the loss to rule out, 0..1.
        stopped: guards whose scoring was stopped because harm was proven; they refuse, and guards that have no score
            after such a stop are skipped.
        level: the error rate of the tests that let a layer in; smaller where several layers may be tried on the same
            items. A guard that is significantly worse at 5 % refuses at any level.

    Raises:
        StackError: if a suite's items differ before and after, or no item was scored by both.
    """
    halted = stopped or {}
    verdicts, skipped = [], []
    for name in (*own, *(name for name in guards if name not in own)):
        if name in halted:
            verdicts.append(_stopped(halted[name], margins[name]))
        elif halted and name not in after:
            skipped.append(name)
        else:
            paired = _pair(name, before[name], after[name])
            margin = None if name in own else margins[name]
            verdicts.append(_judge(before[name], after[name], paired, margin, level))
    accepted = all(verdict.passed for verdict in verdicts) and not skipped
    return Verdict(accepted, tuple(verdicts), tuple(skipped), level)


def improves(paired: Paired, level: float = LEVEL) -> bool:
    """Return whether an own suite shows a gain: the rule for one suite, as ``decide`` applies it."""
    return better_p(paired) <= level


def is_kept(paired: Paired, margin: float, level: float = LEVEL) -> bool:
    """Return whether a guard shows that no more than ``margin`` was lost, and shows no loss within it either."""
    return better_p(paired.mirrored()) > LEVEL and loss_p(paired, margin) <= level


def _stopped(watch: GuardWatch, margin: float) -> SuiteVerdict:
    """Return the refusal that follows from proven harm, with the figures of the items seen."""
    old, new, clusters = watch.seen()
    paired = pair(old, new, clusters)
    before = math.fsum(value for value, after in zip(old, new, strict=True) if not math.isnan(value + after)) / paired.n
    share = f"after {len(old):,} of {len(watch.before.values):,} items"
    return _verdict(
        watch.before.suite,
        (before, before + paired.mean),
        paired,
        margin,
        p_value=min(1.0, 1 / watch.evidence),
        passed=False,
        reason=f"worse, proven {share} (evidence {watch.evidence:.0f} to 1)",
        stopped_after=len(old),
    )


def _pair(name: str, before: Score, after: Score) -> Paired:
    if before.items_digest != after.items_digest:
        raise StackError(f"suite '{name}': scored on different items before and after", hint="run `lamina eval`")
    try:
        return pair(before.values, after.values, before.clusters)
    except ValueError as error:
        raise StackError(f"suite '{name}': {error}", hint="run `lamina eval`") from error


def _judge(before: Score, after: Score, paired: Paired, margin: float | None, level: float) -> SuiteVerdict:
    shift, warning = _warn(before, after)
    if margin is None:
        p_value = better_p(paired)
        passed = improves(paired, level)
        reason = f"{'better' if passed else 'not shown to be better'} (p = {p_value:.2g})"
    else:
        p_value = better_p(paired.mirrored())
        passed = is_kept(paired, margin, level)
        reason = _guard_reason(paired, p_value, margin, level, passed=passed)
    return _verdict(
        before.suite,
        (before.mean, after.mean),
        paired,
        margin,
        p_value=p_value,
        passed=passed,
        reason=reason,
        nll_shift=shift,
        warning=warning,
    )


def _guard_reason(paired: Paired, p_value: float, margin: float, level: float, *, passed: bool) -> str:
    if passed:
        return f"no worse: a loss of {margin:.1%} is ruled out"
    if p_value <= LEVEL:
        return f"worse (p = {p_value:.2g})"
    most = upper_loss(paired, level)
    return f"not shown to be no worse: losses up to {most:.1%} are possible, the margin is {margin:.1%}"


def _warn(before: Score, after: Score) -> tuple[float | None, str]:
    """Return the mean shift of the references' negative log-likelihoods, and a warning if it is a rise beyond chance.

    Likelihoods move before answers do: they show a shift that right and wrong would need many times the items for.
    """
    if len(before.nll) != len(after.nll) or not before.nll:
        return None, ""
    try:
        shift = pair(before.nll, after.nll, before.clusters)
    except ValueError:
        return None, ""
    p_value = mean_p(shift)
    if p_value > _WARNING_LEVEL:
        return shift.mean, ""
    return shift.mean, f"its answers became less likely by {shift.mean:.3f} nats a token (p = {p_value:.1g})"


def _verdict(
    suite: str,
    means: tuple[float, float],
    paired: Paired,
    margin: float | None,
    *,
    p_value: float,
    passed: bool,
    reason: str,
    nll_shift: float | None = None,
    warning: str = "",
    stopped_after: int | None = None,
) -> SuiteVerdict:
    return SuiteVerdict(
        suite=suite,
        role="own" if margin is None else "guard",
        before=means[0],
        after=means[1],
        change=change_interval(paired),
        p_value=p_value,
        passed=passed,
        reason=reason,
        items=paired.n,
        margin=margin,
        loss_bound=upper_loss(paired),
        items_needed=tuple(items_for(drop, paired) for drop in DROPS),
        nll_shift=nll_shift,
        warning=warning,
        stopped_after=stopped_after,
    )
