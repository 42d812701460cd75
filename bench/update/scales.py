"""What a late layer's scale is worth: of each layer in ``bench/update.py``'s orders, on dev rows that no run sees.

    python bench/update/scales.py [--data ../shared/data] [--work build/update] [--json]

For each layer with others below it: the scale it has there, and the one that training it would give it now. Where
either is not 1, dev rows of the stack's skills are answered and scored at both of them and at 1, as the tests are. The
orders must have been run: ``bench/update.py --parts orders``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))
from report import publish
from runs import FOUR, ORDERS, order_branch
from stream import SKILLS
from workshop import FULL, SCORING, Workshop, open_workshop

from lamina.cli.progress import TerminalProgress
from lamina.config import SuiteSettings
from lamina.errors import LaminaError
from lamina.evaluate.suites import Suite, load_suite
from lamina.ops.evaluate import score_stack
from lamina.stack.manifest import StackConfig
from lamina.stack.order import add_layer


def measure(shop: Workshop) -> list[dict[str, Any]]:
    """Return each layer's scales, and the dev scores at those that are not 1."""
    told, suites = [], dev_suites(shop)
    for order in ORDERS[: shop.plan.orders]:
        stack = shop.held(order_branch(order))
        if stack is None:
            continue
        for height in range(2, FOUR + 1):
            parent, entry = stack.prefix(height - 1), stack.layers[height - 1]
            found = shop.grown(parent, shop.file("first", entry.name), entry.name, shop.recipe).layers[-1].scale
            line = {"order": order, "layer": entry.name, "had": entry.scale, "found": found}
            for scale in sorted({entry.scale, found, 1.0} if {entry.scale, found} != {1.0} else ()):
                scaled = add_layer(shop.project.store, parent, entry.layer, scale)
                line[f"{scale:g}"] = dev_scores(shop, scaled, suites)
            told.append(line)
    return told


def dev_suites(shop: Workshop) -> dict[str, Suite]:
    """Return the dev rows as suites that are scored as the tests are."""
    return {
        name: load_suite(name, SuiteSettings(file=shop.file("dev", name), scorer=scorer, max_tokens=tokens))
        for name, (scorer, tokens) in SCORING.items()
    }


def dev_scores(shop: Workshop, stack: StackConfig, suites: dict[str, Suite]) -> dict[str, float]:
    """Return the scores of the skills whose layers are in the stack, and their mean."""
    held = {entry.name for entry in stack.layers}
    scores = {
        name: score_stack(shop.project, stack, suites[name], f"{name} at {stack.layers[-1].scale:g}").mean
        for name in SKILLS
        if name in held
    }
    return scores | {"mean": statistics.mean(scores.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/update"))
    parser.add_argument("--json", action="store_true", help="print one JSON line, as always")
    options = parser.parse_args()
    try:
        shop = open_workshop(FULL, FULL.seeds[0], options.data.resolve(), options.work.resolve(), TerminalProgress())
        shop.on("main")
        publish("update-scales", {"layers": measure(shop)})
    except LaminaError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
