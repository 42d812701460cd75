"""The gate's rule: what lets a layer in, what keeps it out, what it says besides."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from lamina.errors import StackError
from lamina.evaluate.gate import Verdict, decide
from lamina.evaluate.statistics.intervals import interval
from lamina.evaluate.statistics.loss import items_needed
from lamina.evaluate.watch import GuardWatch
from lamina.records import Score


def score(
    values: Sequence[float], digest: str = "d", nll: Sequence[float] = (), clusters: Sequence[str] = (), name: str = "s"
) -> Score:
    mean, low, high = interval([value for value in values if not math.isnan(value)])
    return Score(
        suite=name,
        mean=mean,
        low=low,
        high=high,
        n=len(values),
        items_digest=digest,
        values=tuple(values),
        nll=tuple(nll),
        clusters=tuple(clusters),
    )


def judge_guard(before: Score, after: Score, margin: float = 0.02) -> Verdict:
    return decide({"g": before}, {"g": after}, own=[], guards=["g"], margins={"g": margin})


def test_the_gate_lets_a_better_layer_in_and_keeps_a_harmful_one_out() -> None:
    low, high, same = score([0.0] * 40), score([1.0] * 40), score([1.0] * 200, name="g")

    def judge(own: Score, guard: Score) -> Verdict:
        return decide({"own": low, "g": same}, {"own": own, "g": guard}, own=["own"], guards=["g"], margins={"g": 0.02})

    better = judge(high, same)
    assert better.accepted
    assert [(line.suite, line.role, line.passed) for line in better.suites] == [
        ("s", "own", True),
        ("g", "guard", True),
    ]
    assert not judge(low, same).accepted
    worse = judge(high, score([0.0] * 20 + [1.0] * 180, name="g"))
    assert [line.passed for line in worse.suites] == [True, False]
    assert worse.suites[1].reason == "worse (p = 9.5e-07)"


def test_an_own_suite_takes_the_exact_one_sided_test() -> None:
    for gains, passes in ((4, False), (5, True)):  # 2^-4 = 6.25 %, 2^-5 = 3.1 %
        before, after = score([0.0] * 30), score([1.0] * gains + [0.0] * (30 - gains))
        verdict = decide({"own": before}, {"own": after}, own=["own"], guards=[], margins={})
        assert verdict.accepted is passes
        assert verdict.suites[0].p_value == 2.0**-gains


def test_a_guard_with_too_few_items_cannot_pass_and_says_how_many_it_takes() -> None:
    changed = score([1.0, 0.0] * 10 + [1.0] * 180), score([0.0, 1.0] * 10 + [1.0] * 180)
    (line,) = judge_guard(*changed).suites
    assert not line.passed
    assert line.reason.startswith("not shown to be no worse: losses up to 3.9%")
    assert line.reason.endswith("the margin is 2.0%")
    share = 21 / 201
    assert line.items_needed == (items_needed(0.01, share), items_needed(0.02, share))
    assert line.change[0] < 0 < line.change[1]
    (wide,) = judge_guard(*changed, margin=0.05).suites
    assert wide.passed
    assert wide.reason == "no worse: a loss of 5.0% is ruled out"
    assert wide.loss_bound == line.loss_bound < 0.05


def test_a_small_loss_that_is_certain_is_a_loss() -> None:
    before, after = score([1.0] * 10_000), score([0.0] * 60 + [1.0] * 9_940)
    (line,) = judge_guard(before, after).suites
    assert line.loss_bound < 0.02  # ruled out, and yet
    assert not line.passed
    assert line.reason.startswith("worse")


def test_clusters_count_as_one() -> None:
    """Sixty items in three passages: what convinces as sixty does not as three."""
    before, after = [0.0] * 60, [1.0] * 60
    clusters = [f"passage {place % 3}" for place in range(60)]
    for names, passes in (((), True), (clusters, False)):
        own = {"own": score(before, clusters=names)}, {"own": score(after, clusters=names)}
        assert decide(*own, own=["own"], guards=[], margins={}).accepted is passes
    same = score([1.0] * 300, clusters=[str(place // 100) for place in range(300)])
    assert judge_guard(score([1.0] * 300), score([1.0] * 300)).accepted
    assert not judge_guard(same, same).accepted


def test_likelihoods_warn_before_answers_do() -> None:
    draw = random.Random(3)
    same, nll = [1.0] * 300, [2 + draw.random() for _ in range(300)]
    quiet = judge_guard(score(same, nll=nll), score(same, nll=[each + draw.gauss(0, 0.05) for each in nll])).suites[0]
    assert (quiet.passed, quiet.warning) == (True, "")
    risen = [each + draw.gauss(0.02, 0.05) for each in nll]
    warned = judge_guard(score(same, nll=nll), score(same, nll=risen)).suites[0]
    assert warned.passed  # a warning decides nothing
    assert warned.nll_shift == pytest.approx(0.02, abs=0.01)
    assert "less likely by 0.0" in warned.warning
    fallen = judge_guard(score(same, nll=risen), score(same, nll=nll)).suites[0]
    assert fallen.warning == ""
    assert judge_guard(score(same), score(same, nll=nll)).suites[0].nll_shift is None  # an older result knows none


def watched(before: Score, after: Sequence[float], batch: int = 20) -> tuple[GuardWatch, int | None]:
    watch = GuardWatch(before)
    for start in range(0, len(after), batch):
        if watch.see({place: after[place] for place in range(start, min(start + batch, len(after)))}):
            return watch, start + batch
    return watch, None


def test_proven_harm_stops_and_refuses_and_skips_the_rest() -> None:
    before, other = score([1.0] * 400, name="g"), score([1.0] * 50, name="h")
    watch, stopped = watched(before, [0.0 if place % 10 == 0 else 1.0 for place in range(400)])
    assert stopped is not None
    assert stopped < 200
    verdict = decide(
        {"g": before, "h": other}, {}, own=[], guards=["g", "h"], margins={"g": 0.02, "h": 0.02}, stopped={"g": watch}
    )
    assert (verdict.accepted, verdict.skipped) == (False, ("h",))
    (line,) = verdict.suites
    assert line.stopped_after == line.items == stopped
    assert line.reason.startswith(f"worse, proven after {stopped} of 400 items")
    assert (line.before, line.after) == (1.0, pytest.approx(0.9))
    assert line.p_value <= 0.05


def test_a_watch_waits_for_whole_clusters() -> None:
    clusters = [str(place // 40) for place in range(400)]
    _, stopped = watched(score([1.0] * 400, clusters=clusters), [0.0] * 400)
    alone, _ = watched(score([1.0] * 400), [0.0] * 20)
    assert alone.evidence > 20
    assert stopped == 360  # nine clusters: (1.1^9 + 1.2^9 + 1.4^9 + 1.6^9) / 4 = 24; eight give 16


def test_unscored_items_are_left_out() -> None:
    nan = math.nan
    watch, _ = watched(score([1.0, nan, 1.0, nan]), [0.0, 1.0, nan, nan])
    assert watch.evidence == pytest.approx((1.1 + 1.2 + 1.4 + 1.6) / 4)
    (line,) = judge_guard(score([1.0, nan, 1.0]), score([1.0, nan, nan])).suites
    assert line.items == 1


def test_the_gate_compares_like_with_like() -> None:
    with pytest.raises(StackError, match="different items"):
        judge_guard(score([1.0]), score([1.0], "other"))
    with pytest.raises(StackError, match="suite 'g': no item was scored by both"):
        judge_guard(score([1.0, math.nan]), score([math.nan, 1.0]))
