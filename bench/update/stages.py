"""What a skill's layer wants on top of others (passes, rows a step, rate, replay), by the loss on dev rows alone.

    python bench/update/stages.py [SKILL ...] [--rows 500] [--data ../shared/data] [--work build/update]

The second, third and fourth skill of ``bench/update.py``, each on layers of the skills before it, made by the defaults.
Word problems and calls (reasoning, tools) vary how the layer is trained, bank customers' questions (classification)
what is mixed in. No test row is touched.

before     mean loss in nats per token on 60 dev rows of each skill, without the layer
after      the same with it; the last one is its own skill
tokens     all that the layer was trained on, with what its scale was searched on; ``seconds`` of both

A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
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

# No run of these stops early.
TRAINED: tuple[dict[str, float], ...] = tuple(
    {"epochs": epochs, "batch_rows": batch_rows, "learning_rate": rate, "patience": 0}
    for epochs, batch_rows, rate in ((1.0, 8, 5e-4), (2.0, 8, 5e-4), (2.0, 8, 1e-3), (2.0, 4, 5e-4), (2.0, 2, 5e-4))
)
MIXED: tuple[dict[str, float], ...] = tuple(
    {"replay": replay, "kl": kl} for replay in (0.3, 1.0) for kl in (0.0, 0.5, 1.0)
)
VARIED = {"reasoning": TRAINED, "tools": TRAINED, "classification": MIXED}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("skills", nargs="*", metavar="SKILL", help=f"some of {', '.join(VARIED)}; all by default")
    parser.add_argument("--rows", type=int, default=FULL.cut.rows, help="rows of each skill")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/update"))
    options = parser.parse_args()
    plan = replace(FULL, cut=replace(FULL.cut, rows=options.rows))
    shop = open_workshop(plan, plan.seeds[0], options.data.resolve(), options.work.resolve(), TerminalProgress())
    told: list[dict[str, Any]] = []
    parent = shop.bare
    measured = [Stage(skill) for skill in options.skills or VARIED]
    for stage in STAGES[: max(map(STAGES.index, measured)) + 1]:
        if stage in measured:
            told += [measure(shop, stage, parent, changed) for changed in VARIED[stage.skill]]
        if stage != measured[-1]:
            parent = shop.grown(parent, shop.rows_of(stage), stage.name, shop.recipe)
    publish("update-stages", {"rows": options.rows, "seeds": [shop.seed], "variants": told})


def measure(shop: Workshop, stage: Stage, parent: StackConfig, changed: Mapping[str, float]) -> dict[str, Any]:
    """Return the dev losses without and with the skill's layer on ``parent``, its recipe ``changed``."""
    recipe = shop.recipe.model_copy(update=changed)
    stack = shop.grown(parent, shop.rows_of(stage), stage.name, recipe)
    names = SKILLS[: SKILLS.index(stage.skill) + 1]
    matrix = shop.score([("before", parent), ("after", stack)], [dev_suite(name) for name in names])
    losses = [[sum(score.nll) / len(score.nll) for score in row] for row in matrix.scores]
    layer = read_layer(shop.project.store, stack.layers[-1].layer)
    told = {"skill": stage.skill, **changed, "before": losses[0], "after": losses[1]}
    told |= {
        "tokens": layer.cost.tokens,
        "seconds": layer.cost.seconds,
        "steps": layer.cost.steps,
        "scale": stack.layers[-1].scale,
    }
    shop.project.progress.note(f"{told}")
    return told


if __name__ == "__main__":
    main()
