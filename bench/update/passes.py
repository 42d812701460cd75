"""How many passes, rows a step and what rate a skill's layer wants on top of others, by the loss on dev rows alone.

    python bench/update/passes.py [SKILL ...] [--rows 500] [--data ../shared/data] [--work build/update]

Word problems and calls (reasoning, tools), the second and third skill of ``bench/update.py``, each on layers of the
skills before it, of one pass and eight rows a step. No test row is touched.

own, old  mean loss in nats per token on 60 dev rows of the skill, and of the skills below it
tokens    all that the layer was trained on, with what its scale was searched on; ``seconds`` of both

A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from report import publish
from stream import SKILLS
from workshop import FULL, STAGES, Stage, Workshop, dev_suite, open_workshop

from lamina.cli.progress import TerminalProgress
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig

# Passes, rows a step and learning rate; no run stops early.
GRID = ((1.0, 8, 5e-4), (2.0, 8, 5e-4), (2.0, 8, 1e-3), (2.0, 4, 5e-4), (2.0, 2, 5e-4))
MEASURED = ("reasoning", "tools")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skills", nargs="*", metavar="SKILL", help=f"some of {', '.join(MEASURED)}; both by default")
    parser.add_argument("--rows", type=int, default=FULL.cut.rows, help="rows of each skill")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/update"))
    options = parser.parse_args()
    plan = replace(FULL, cut=replace(FULL.cut, rows=options.rows))
    shop = open_workshop(plan, plan.seeds[0], options.data.resolve(), options.work.resolve(), TerminalProgress())
    told: list[dict[str, Any]] = []
    parent = shop.bare
    measured = [Stage(skill) for skill in options.skills or MEASURED]
    for stage in STAGES[: max(map(STAGES.index, measured)) + 1]:
        if stage in measured:
            told += [measure(shop, stage, parent, *how) for how in GRID]
        if stage != measured[-1]:
            parent = grow(shop, stage, parent, epochs=1.0, batch_rows=8)
    publish("update-passes", {"rows": options.rows, "seeds": [shop.seed], "variants": told})


def measure(
    shop: Workshop, stage: Stage, parent: StackConfig, passes: float, batch_rows: int, rate: float
) -> dict[str, Any]:
    """Return the dev losses with the skill's layer on ``parent``, trained in this way."""
    stack = grow(shop, stage, parent, epochs=passes, batch_rows=batch_rows, learning_rate=rate, patience=0)
    names = SKILLS[: SKILLS.index(stage.skill) + 1]
    (scores,) = shop.score([(stage.name, stack)], [dev_suite(name) for name in names]).scores
    losses = [sum(score.nll) / len(score.nll) for score in scores]
    cost = read_layer(shop.project.store, stack.layers[-1].layer).cost
    told = {"skill": stage.skill, "passes": passes, "batch_rows": batch_rows, "learning_rate": rate}
    told |= {
        "tokens": cost.tokens,
        "seconds": cost.seconds,
        "steps": cost.steps,
        "scale": stack.layers[-1].scale,
        "own": losses[-1],
        "old": sum(losses[:-1]) / len(losses[:-1]),
    }
    shop.project.progress.note(f"{told}")
    return told


def grow(shop: Workshop, stage: Stage, parent: StackConfig, **changed: float) -> StackConfig:
    """Return ``parent`` with the stage's layer on top, by the defaults but for ``changed``."""
    return shop.grown(parent, shop.rows_of(stage), stage.name, shop.recipe.model_copy(update=changed))


if __name__ == "__main__":
    main()
