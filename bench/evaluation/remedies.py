"""How often the gate errs over a whole sequence of remedies, by simulation.

    python bench/evaluation/remedies.py [--suites 2000] [--json]

A layer is refused, then up to four remedies are tried on the same items. Each item changes with chance 10 %; between
two candidates a share of the items (``alike``) changes in the same way, since a scaled or retrained layer is much like
the first. Levels are those of ``lamina.ops.remedy``: half for the layer as trained, an eighth for each remedy. A remedy
is tried only if a refusing guard was seen to lose, as the gate does.

false_accept      the highest rate, over truths and likenesses, at which any candidate gets in although all of them lose
                  the margin on a guard, or improve nothing (stated: 5 % at most)
uncorrected       the same if every try were made at 5 %
harmless          a layer that changes nothing on balance, on 1 to 8 guards with items for power 95 % each at 5 %: how
                  often it is refused by a gate without remedies, by the first look of one with them, and at the end
mended            a layer that gains but loses 5 points on a guard, whose smaller scale loses nothing: how often some
                  remedy gets in, and how often the layer as trained did
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))
from calibration import MARGIN, items_to_keep
from report import publish

from lamina.evaluate.gate import LEVEL, improves, is_kept
from lamina.evaluate.statistics.paired import Paired
from lamina.ops.remedy import FIRST_SHARE

SUITES = 2000
TRIES = 5
CHANGING = 0.10
ALIKE = (0.0, 0.5, 0.9, 1.0)
LEVELS = (LEVEL * FIRST_SHARE, *[LEVEL * (1 - FIRST_SHARE) / (TRIES - 1)] * (TRIES - 1))
OWN_ITEMS = 1000

Passes = Callable[[Paired, float], bool]


def candidates(draw: np.random.Generator, items: int, losses: Sequence[float], alike: float) -> list[Paired]:
    """Return one suite's changes under every candidate; ``alike`` of the items follow one common draw."""
    common = draw.random(items)
    found = []
    for loss in losses:
        chance = np.where(draw.random(items) < alike, common, draw.random(items))
        found.append(Paired(changes(chance, loss), np.arange(items)))
    return found


def changes(chance: NDArray[np.float64], loss: float) -> NDArray[np.float64]:
    worse, better = (CHANGING + loss) / 2, (CHANGING - loss) / 2
    return np.where(chance < worse, -1.0, np.where(chance > 1 - better, 1.0, 0.0))


def kept(paired: Paired, level: float) -> bool:
    return is_kept(paired, MARGIN, level)


def gets_in(
    guards: Sequence[Sequence[Paired]], passes: Passes, levels: Sequence[float], *, watched: bool
) -> int | None:
    """Return which try gets in, None if none does. ``guards`` holds the tries of each suite.

    ``watched``: a try after the first is made only if a suite that refused the first was seen to lose.
    """
    for attempt, level in enumerate(levels):
        if attempt == 1 and watched:
            refusing = [suite[0] for suite in guards if not passes(suite[0], levels[0])]
            if all(first.mean >= 0 for first in refusing):
                return None
        if all(passes(suite[attempt], level) for suite in guards):
            return attempt
    return None


def rate(
    suites: int,
    losses: Sequence[float],
    alike: float,
    passes: Passes,
    levels: Sequence[float],
    items: int,
    guards: int = 1,
) -> list[int | None]:
    """Return which try got in, for so many simulated layers."""
    draw = np.random.default_rng([round(alike * 10), guards, items])
    watched = passes is kept
    return [
        gets_in([candidates(draw, items, losses, alike) for _ in range(guards)], passes, levels, watched=watched)
        for _ in range(suites)
    ]


def share(found: Sequence[int | None]) -> float:
    return sum(each is not None for each in found) / len(found)


def measure(suites: int = SUITES) -> dict[str, Any]:
    """Return the figures of this file's head."""
    enough = items_to_keep(CHANGING)
    flat = (LEVEL,) * TRIES
    cases = []
    for name, loss, passes, items in (
        ("every candidate loses the margin", MARGIN, kept, enough),
        ("no candidate improves", 0.0, improves, OWN_ITEMS),
    ):
        for alike in ALIKE:
            divided, plain = (
                share(rate(suites, [loss] * TRIES, alike, passes, levels, items)) for levels in (LEVELS, flat)
            )
            cases.append({"case": name, "alike": alike, "rate": divided, "uncorrected": plain, "items": items})
    harmless = []
    for guards in (1, 2, 4, 8):
        fewer = max(200, suites // guards)
        found = rate(fewer, [0.0] * TRIES, 0.9, kept, LEVELS, enough, guards)
        plain = rate(fewer, [0.0], 0.9, kept, (LEVEL,), enough, guards)
        first = sum(each == 0 for each in found) / fewer
        harmless.append(
            {"guards": guards, "without": 1 - share(plain), "first_look": 1 - first, "refused": 1 - share(found)}
        )
    mended = rate(suites, [0.05, 0.0, 0.05, 0.05, 0.05], 0.5, kept, LEVELS, enough)
    return {
        "suites": suites,
        "levels": LEVELS,
        "standard_error": round(math.sqrt(LEVEL * (1 - LEVEL) / suites), 5),
        "false_accept": max(case["rate"] for case in cases),
        "uncorrected": max(case["uncorrected"] for case in cases),
        "cases": cases,
        "harmless": harmless,
        "mended": {
            "as_trained": sum(each == 0 for each in mended) / suites,
            "by_a_remedy": sum(each is not None and each > 0 for each in mended) / suites,
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", type=int, default=SUITES)
    parser.add_argument("--json", action="store_true", help="print one JSON line, as always")
    publish("remedies", measure(parser.parse_args().suites))


if __name__ == "__main__":
    main()
