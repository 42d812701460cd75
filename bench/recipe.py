"""What few rows need: the demo's small data sets with several recipes, by the loss on their test rows.

    python bench/recipe.py [facts] [lamp]

The figures stand in docs/design/recipe.md.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from report import publish

from lamina.config import BaseSettings, Recipe
from lamina.data.read import read_rows
from lamina.data.render import Renderer
from lamina.demo.files import data_path
from lamina.lora.surgery import attach, fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.choose import DataSize, choose
from lamina.train.loop import train_steps
from lamina.train.passes import mean_loss
from lamina.train.state import TrainState

TASKS = {"facts": ("facts_train", "facts_test", 144), "lamp": ("tools_late_train", "tools_late_test", 20)}
# None stands for the recipe that is chosen from the data.
SETTINGS: dict[str, list[dict[str, Any] | None]] = {
    "facts": [
        {"epochs": 1},
        None,
        {"epochs": 3, "learning_rate": 7.5e-4},
        {"epochs": 3, "learning_rate": 7.5e-4, "rank": 8},
    ],
    "lamp": [
        {"epochs": 1},
        {"epochs": 3},
        {"epochs": 8},
        None,
        {"epochs": 8, "learning_rate": 7.5e-4},
        {"epochs": 8, "learning_rate": 7.5e-4, "rank": 8},
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS), metavar="TASK")
    base = load_base(resolve_base(BaseSettings(), Quiet()))
    publish("recipe", {task: measure(base, task) for task in parser.parse_args().tasks})


def measure(base: LoadedBase, task: str) -> list[dict[str, Any]]:
    """Train a layer with each recipe and measure it."""
    train_file, test_file, count = TASKS[task]
    rows = random.Random(1).sample(read(base, train_file), count)
    test = read(base, test_file)
    figures = []
    for settings in SETTINGS[task]:
        recipe = Recipe(**settings) if settings is not None else chosen(base, rows)
        attach(base.model, [])
        state = TrainState(fresh_adapter(base.model, recipe.rank, recipe.seed), base.device)
        records = list(train_steps(base, state, rows, recipe))
        figures.append(
            {
                "chosen": settings is None,
                **{key: getattr(recipe, key) for key in ("rank", "batch_rows", "epochs", "learning_rate")},
                "steps": len(records),
                "test_loss": mean_loss(base, test),
            }
        )
    return figures


def chosen(base: LoadedBase, rows: list[TokenRow]) -> Recipe:
    """Return the recipe that ``lamina train`` settles on."""
    of_rank_1 = fresh_adapter(base.model, 1, 0)
    size = DataSize(
        rows=len(rows),
        trained_tokens=sum(row.trained_count for row in rows),
        parameters_per_rank=sum(pair.A.numel() + pair.B.numel() for pair in of_rank_1.values()),
    )
    return Recipe.model_validate({key: choice.value for key, choice in choose(size, Recipe()).items()})


def read(base: LoadedBase, name: str) -> list[TokenRow]:
    """Return a demo file's rows, rendered."""
    renderer = Renderer(base.tokenizer, base.template)
    return [renderer.row(row, max_length=base.context) for row in read_rows(data_path(f"{name}.jsonl")).rows]


if __name__ == "__main__":
    main()
