"""The last step or the one with the lowest held-out loss: which is better on rows that a run knew nothing of.

    python bench/update/last_step.py [--data ../shared/data] [--work build/update]

Every stage of ``bench/update.py`` is trained to its end on the layers before it, its held-out rows measured as ever.
No test row is touched.

last, lowest  loss in nats per token on 60 dev rows of the stage's skill, with the values of the last step, and of the
              one at which the few watched rows lost least
beaten        whether those rows tell the last step to be worse beyond chance, which is what ``lamina train`` goes by
would_end     the step at which three losses in a row above the lowest, after the first pass, would have ended the run
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from report import publish
from workshop import FULL, STAGES, Stage, Workshop, open_workshop

from lamina.cli.progress import TerminalProgress
from lamina.lora.start import start_factors
from lamina.ops.replay import render_replay
from lamina.ops.rows import read_files, render_rows
from lamina.ops.train import settle
from lamina.records import StepRecord
from lamina.stack.manifest import StackConfig
from lamina.train.loop import train_steps
from lamina.train.passes import mean_loss
from lamina.train.state import TrainState

PATIENCE = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/update"))
    options = parser.parse_args()
    shop = open_workshop(FULL, FULL.seeds[0], options.data.resolve(), options.work.resolve(), TerminalProgress())
    told: list[dict[str, Any]] = []
    parent = shop.bare
    for stage in STAGES:
        told.append(measure(shop, stage, parent))
        shop.project.progress.note(f"{told[-1]}")
        parent = shop.grown(parent, shop.rows_of(stage), stage.name, shop.recipe)
    publish("update-last-step", {"rows": FULL.cut.rows, "seeds": [shop.seed], "stages": told})


def measure(shop: Workshop, stage: Stage, parent: StackConfig) -> dict[str, Any]:
    """Return what one run to its end gave, at its last step and at the lowest held-out loss."""
    project = shop.on("main")
    data = shop.prepared(shop.rows_of(stage), shop.recipe)
    replay = render_replay(project, parent, data, shop.recipe).rows
    patient = shop.recipe.model_copy(update={"patience": 0})
    recipe, _ = settle(project, data, replay, patient, {}, is_known=stage.is_update)
    rows = (*data.train_tokens, *replay)
    dev = render_rows(project, read_files(project, [shop.file("dev", stage.skill)])[1], project.loaded.context)
    base = project.activate(parent)
    start = start_factors(base.model, recipe.rank, recipe.seed, recipe.start, project.adapters(parent.layers))
    state = TrainState(start, base.device)
    with project.progress.stage(f"{stage.name} to its end", total=len(rows) * recipe.epochs, unit="rows") as tick:
        records = []
        for record in train_steps(base, state, rows, recipe, data.heldout_tokens):
            records.append(record)
            tick(recipe.batch_rows)
    last = mean_loss(base, dev)
    assert state.best is not None
    beaten = bool(state.best.misses)
    state.values.copy_(state.best.values)
    return {
        "stage": stage.name,
        "steps": state.step,
        "lowest_at": state.best.step,
        "last": last,
        "lowest": mean_loss(base, dev),
        "beaten": beaten,
        "would_end": _would_end(records, -(-len(rows) // recipe.batch_rows)),
    }


def _would_end(records: Sequence[StepRecord], first_pass: int) -> int:
    lowest, misses = float("inf"), 0
    for record in records:
        if record.heldout_loss is None:
            continue
        if record.heldout_loss < lowest:
            lowest, misses = record.heldout_loss, 0
        else:
            misses += record.step > first_pass
        if misses == PATIENCE:
            return record.step
    return records[-1].step


if __name__ == "__main__":
    main()
