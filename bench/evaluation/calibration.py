"""How often the gate errs, by simulation: suites drawn from known truths, judged by the gate's own rules.

    python bench/evaluation/calibration.py [--suites 10000]

false_accept   the highest of the rates at which a layer passes that must not: it loses just the margin on a guard, or
               changes nothing on its own suite (nominal: 5 % at most). On guards it is that of the non-inferiority test
               alone; the gate also refuses what is significantly worse, and errs less
false_reject   the highest of the rates at which a guard refuses a layer that neither helps nor harms, where it has as
               many items as rule the margin out with power 95 % (nominal: 5 %)
with_abort     the same with scoring stopped on proven harm; early_alarm is the share of such stops (5 % at most)
abort_median   items after which half of the layers that lose 5 and 2 points are stopped, a tenth of the items changing
cases          every truth, with its rate, what is nominal, the items and their clusters

In half of the truths twenty items share a template: templates differ in how often items change, and lean towards better
or worse as a whole.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamina.evaluate.gate import LEVEL, improves, is_kept
from lamina.evaluate.statistics.distributions import normal_quantile
from lamina.evaluate.statistics.intervals import design_effect
from lamina.evaluate.statistics.loss import items_needed, loss_p, tango
from lamina.evaluate.statistics.paired import Paired, mean_p
from lamina.evaluate.statistics.sequential import HARM_LEVEL, HarmWatch

SUITES = 10_000
MARGIN = 0.02
_LOOK = 128
_TEMPLATE = 20

Draw = Callable[[np.random.Generator], Paired]


@dataclass(frozen=True)
class Case:
    """A truth, what counts as an error there, and how often that may happen.

    ``kind`` is ``accept``, ``reject`` (also watched for early stops) or ``warn``.
    """

    name: str
    kind: str
    nominal: float
    draw: Draw
    errs: Callable[[Paired], bool]


def right_or_wrong(items: int, changing: float, loss: float) -> Draw:
    """Return a suite of independent items of which a share changes, for the worse by ``loss`` on balance."""

    def draw(generator: np.random.Generator) -> Paired:
        chance = generator.random(items)
        worse, better = (changing + loss) / 2, (changing - loss) / 2
        changes = np.where(chance < worse, -1.0, np.where(chance < worse + better, 1.0, 0.0))
        return Paired(changes, np.arange(items))

    return draw


def by_template(items: int, changing: float, loss: float) -> Draw:
    """Return a suite of templates: how many of its items change, and how, is drawn for each; on average as above."""
    templates = math.ceil(items / _TEMPLATE)
    groups = np.repeat(np.arange(templates), _TEMPLATE)
    centre = (1 + loss / changing) / 2
    width = min(centre, 1 - centre)

    def draw(generator: np.random.Generator) -> Paired:
        rate = generator.uniform(0, 2 * changing, templates)[groups]
        worse = generator.uniform(centre - width, centre + width, templates)[groups]
        moved = generator.random(len(groups)) < rate
        changes = np.where(generator.random(len(groups)) < worse, -1.0, 1.0) * moved
        return Paired(changes, groups)

    return draw


def fractions(items: int, loss: float, scatter: float) -> Draw:
    """Return a suite of likelihoods, which move in proportion to their size."""

    def draw(generator: np.random.Generator) -> Paired:
        sizes = generator.uniform(0, 2, items)
        return Paired(np.clip(sizes * generator.normal(-loss, scatter, items), -1, 1), np.arange(items))

    return draw


def items_to_keep(changing: float, power: float = 0.95) -> int:
    """Return how many items rule out the margin where nothing is lost, with that power.

    ``items_needed`` with the variance that Tango's statistic has under the margin in the term of the level: at 5 %
    changing items that takes a fourteenth more.
    """
    under_margin = (MARGIN / tango(changing / 2, changing / 2, 1, MARGIN)) ** 2
    level = normal_quantile(1 - LEVEL) * math.sqrt(under_margin)
    return math.ceil(((level + normal_quantile(power) * math.sqrt(changing)) / MARGIN) ** 2)


def cases() -> list[Case]:
    """Return the truths. Guards that must let an unchanged layer in have items for power 95 %."""

    def ruled_out(paired: Paired) -> bool:
        return loss_p(paired, MARGIN) <= LEVEL

    def refused(paired: Paired) -> bool:
        return not is_kept(paired, MARGIN)

    found = []
    for changing in (0.05, 0.10, 0.20):
        enough = items_to_keep(changing)
        share = f"{changing:.0%} changing"
        found += [
            Case(
                f"guard loses the margin, {share}", "accept", LEVEL, right_or_wrong(enough, changing, MARGIN), ruled_out
            ),
            Case(f"guard unchanged, {share}", "reject", LEVEL, right_or_wrong(enough, changing, 0.0), refused),
        ]
    enough = items_to_keep(0.10)
    spread = np.random.default_rng(1)
    sample = by_template(400_000, 0.10, 0.0)(spread)
    inflated = math.ceil(enough * design_effect(sample.changes, sample.groups))
    steady = items_needed(MARGIN, 0.1**2 * 4 / 3 + MARGIN**2, power=0.95)
    return [
        *found,
        Case("guard loses the margin, templates", "accept", LEVEL, by_template(inflated, 0.10, MARGIN), ruled_out),
        Case("guard loses the margin, 40 templates", "accept", LEVEL, by_template(800, 0.10, MARGIN), ruled_out),
        Case("guard unchanged, templates", "reject", LEVEL, by_template(inflated, 0.10, 0.0), refused),
        Case("guard loses the margin, likelihoods", "accept", LEVEL, fractions(steady, MARGIN, 0.1), ruled_out),
        Case("guard unchanged, likelihoods", "reject", LEVEL, fractions(steady, 0.0, 0.1), refused),
        Case("own suite unchanged", "accept", LEVEL, right_or_wrong(1000, 0.10, 0.0), improves),
        Case("own suite unchanged, templates", "accept", LEVEL, by_template(1000, 0.10, 0.0), improves),
        Case("own suite unchanged, likelihoods", "accept", LEVEL, fractions(20, 0.0, 0.1), improves),
        Case("likelihoods unchanged, warning", "warn", 0.01, fractions(300, 0.0, 0.1), lambda p: mean_p(p) <= 0.01),
    ]


def run_case(case: Case, suites: int, seed: int = 0) -> dict[str, Any]:
    """Return a case's error rate with its standard error, and how often its scoring would have been stopped."""
    generator = np.random.default_rng(seed)
    errors = alarms = either = 0
    for _ in range(suites):
        paired = case.draw(generator)
        wrong = case.errs(paired)
        errors += wrong
        if case.kind == "reject":
            stopped = stops_after(paired) is not None
            alarms += stopped
            either += stopped or wrong
    rate = errors / suites
    found = {
        "case": case.name,
        "kind": case.kind,
        "rate": rate,
        "nominal": case.nominal,
        "standard_error": round(math.sqrt(case.nominal * (1 - case.nominal) / suites), 5),
        "items": paired.n,
        "clusters": paired.clusters,
    }
    return found | ({"early_alarm": alarms / suites, "with_abort": either / suites} if case.kind == "reject" else {})


def stops_after(paired: Paired) -> int | None:
    """Return after how many items the watch has proof of harm, None if it never has."""
    losses, each = -paired.sums / paired.sizes, paired.n // paired.clusters
    watch, units = HarmWatch(), max(1, _LOOK // each)
    for start in range(0, len(losses), units):
        if watch.see(losses[start : start + units]):
            return min(len(losses), start + units) * each
    return None


def abort_median(loss: float, suites: int, seed: int = 0) -> float:
    """Return the median of items seen when a layer that loses ``loss`` is stopped, looked at after every item."""
    generator, draw = np.random.default_rng(seed), right_or_wrong(6000, 0.10, loss)
    stops = []
    for _ in range(suites):
        changes = draw(generator).changes
        places, watch = np.flatnonzero(changes), HarmWatch()
        stops.append(next((place + 1 for place in places if watch.see(-changes[place : place + 1])), math.inf))
    return float(np.median(stops))


def measure(suites: int = SUITES) -> dict[str, Any]:
    """Return the figures of this file's head."""
    found = [run_case(case, suites, seed) for seed, case in enumerate(cases())]

    def highest(kind: str, key: str = "rate") -> float:
        return max(each[key] for each in found if each["kind"] == kind)

    return {
        "suites": suites,
        "false_accept": highest("accept"),
        "false_reject": highest("reject"),
        "with_abort": highest("reject", "with_abort"),
        "early_alarm": highest("reject", "early_alarm"),
        "abort_level": HARM_LEVEL,
        "abort_median": {"5": abort_median(0.05, suites // 10), "2": abort_median(0.02, suites // 10)},
        "cases": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=SUITES)
    print(json.dumps(measure(parser.parse_args().suites)))


if __name__ == "__main__":
    main()
