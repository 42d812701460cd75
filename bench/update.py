"""A model kept up to date: four skills and three updates, layer on layer, against retraining and against one adapter.

    python bench/update.py [--quick] [--parts lamina,sequential,joint,orders,cost,gate] [--json]

The rows are those of update/stream.py, the runs those of update/runs.py. Every run is a branch of a lamina project
under ``--work``, so a stopped benchmark goes on where it was, and ``--parts`` runs some and reports all there is.
``--scale 0.1`` takes that share of the rows and items, to see it go through; its figures say nothing and are not kept.
Projects are told apart by rows, items and the recipe's defaults; after other changes to training delete ``--work``.

The last line is one JSON object; with matrices and intervals it is kept in ``bench/results/update.json``, for
``--quick`` in ``update-quick.json``. docs/design/update.md explains it, ``bench/update/tables.py`` prints its tables.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent / "update"))

import runs
from report import publish
from staircase import draw_staircase
from summary import summarise
from tables import headline
from workshop import FULL, QUICK, Plan, Workshop, open_workshop

from lamina.cli.progress import TerminalProgress
from lamina.errors import LaminaError
from lamina.stack.store import write_atomically

PARTS: dict[str, Callable[[Workshop], Iterator[runs.Step]]] = {
    "lamina": runs.lamina_steps,
    "joint": runs.joint_steps,
    "cost": runs.cost_steps,
    "sequential": runs.sequential_steps,
    "orders": runs.order_steps,
}
GATE = "gate"
# Steps that are found done take less; they tell nothing about the speed of those that remain.
_DONE_S = 2.0


def main() -> None:
    options = _parse()
    plan = (QUICK if options.quick else FULL).scaled(options.scale)
    progress = TerminalProgress()
    data, work = options.data.resolve(), options.work.resolve()
    try:
        shops = [open_workshop(plan, seed, data, work, progress) for seed in plan.seeds]
        run(steps_of(shops, options.parts), progress.note)
        gate = _ask_gate(plan, data, shops[0], now=GATE in options.parts)
    except LaminaError as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit("stopped; the same command goes on from here") from None
    figures = summarise(shops, gate)
    if figures["staircase"]["lamina"]:
        draw_staircase(figures["staircase"], _chart(plan, shops[0]))
    if not options.json:
        print(headline(figures))
    if options.scale < 1:
        print(json.dumps(figures))
        return
    publish("update" if plan.name == FULL.name else f"update-{plan.name}", figures)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rows and items, one seed, two orders")
    parser.add_argument("--parts", type=_parts, default=[*PARTS, GATE], help=f"some of {','.join([*PARTS, GATE])}")
    parser.add_argument("--scale", type=_share, default=1.0, help="share of rows and items, above 0 and up to 1")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/update"))
    parser.add_argument("--json", action="store_true", help="nothing on stdout but the JSON line")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    chosen = text.split(",")
    unknown = [name for name in chosen if name not in (*PARTS, GATE)]
    if unknown:
        raise argparse.ArgumentTypeError(f"no part '{unknown[0]}'; parts are {', '.join([*PARTS, GATE])}")
    return chosen


def _share(text: str) -> float:
    share = float(text)
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share above 0 and up to 1")
    return share


def steps_of(shops: Sequence[Workshop], parts: Sequence[str]) -> list[runs.Step]:
    """Return the steps of the named parts, seed by seed."""
    return [
        runs.Step(f"seed {shop.seed}: {step.label}", step.guess_s, step.run)
        for name, steps in PARTS.items()
        if name in parts
        for shop in shops
        for step in steps(shop)
    ]


def run(steps: Sequence[runs.Step], note: Callable[[str], None]) -> None:
    """Run the steps in order, and say before each what it is and how long the rest will take."""
    guessed = spent = 0.0
    for place, step in enumerate(steps):
        left = sum(each.guess_s for each in steps[place:]) * (spent / guessed if guessed else 1.0)
        note(f"[{place + 1}/{len(steps)}] {step.label} · about {left / 60:.0f} min left")
        started = time.monotonic()
        step.run()
        took = time.monotonic() - started
        if took > _DONE_S:
            spent, guessed = spent + took, guessed + step.guess_s


def _ask_gate(plan: Plan, data: Path, shop: Workshop, *, now: bool) -> dict[str, Any] | None:
    """Return what planted layers say about the gate's error rates, measured now or before."""
    folder = shop.project.store.project.parent
    kept = folder / "gate.json"
    if now:
        import planted

        shop.project.release()
        # Where planted.py itself keeps them, so that no layer is planted twice.
        found = planted.measure(plan.planted, data=data, work=folder.parents[1] / "planted")
        write_atomically(kept, json.dumps(found).encode())
    return json.loads(kept.read_text("utf-8")) if kept.exists() else None


def _chart(plan: Plan, shop: Workshop) -> Path:
    docs = Path(__file__).parents[1] / "docs"
    return docs / "update.png" if plan.name == FULL.name else shop.project.store.project.parent / "update.png"


if __name__ == "__main__":
    main()
