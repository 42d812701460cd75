"""How the demo's recipes were chosen: three layers with given recipes, scored on rows held out of the training set.

    python bench/demo_recipes.py [--tools JSON] [--facts JSON] [--update JSON] [--work build/recipes]

Each option is a recipe as JSON, for example '{"learning_rate": 5e-4, "epochs": 2, "replay": 1.0}'; left out, it is the
one the demo ships with. Nothing of the test is used: two phrasings of each tool, the last three tools, one question of
each fact and two phrasings of the lamp are taken out of the training rows and scored.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import shutil
from pathlib import Path

from report import publish

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings, Recipe
from lamina.demo.files import data_path
from lamina.demo.generate import as_jsonl, fact_rows, lamp_pairs, lamp_rows, tool_rows
from lamina.demo.lamp import TRAIN_PHRASINGS
from lamina.demo.tools import TOOLS
from lamina.ops.demo import RECIPES
from lamina.ops.evaluate import evaluate, prefixes
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files
from lamina.ops.train import train_layer
from lamina.ops.update import update

# Set, so that a layer does not choose them from its data.
_DEFAULTS = {"rank": 16, "batch_rows": 8, "epochs": 1.0, "learning_rate": 5e-4, "heldout": 0.0}
_SUITES = "\n".join(
    f'[suites.{name}]\nfile = "{file}.jsonl"\nscorer = "{scorer}"\nmax_tokens = {tokens}\n'
    for name, file, scorer, tokens in (
        ("tools", "tools_dev", "call", 32),
        ("lamp", "lamp_dev", "call", 32),
        ("facts", "facts_dev", "exact", 12),
        ("general", "general", "choice", 1),
    )
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in RECIPES:
        parser.add_argument(f"--{name}", type=json.loads, help="recipe as JSON")
    parser.add_argument("--work", type=Path, default=Path("build/recipes"))
    options = parser.parse_args()
    recipes = {
        name: shipped if getattr(options, name) is None else Recipe(**_DEFAULTS | getattr(options, name))
        for name, shipped in RECIPES.items()
    }
    project, late = _open(options.work)
    for name in ("tools", "facts"):
        files, rows = read_files(project, [options.work / f"{name}_train.jsonl"])
        data = prepare_rows(project, files, rows, recipes[name])
        train_layer(project, data, name=name, recipe=recipes[name], origins={}, accept=True)
    grown = options.work / "tools_train.jsonl"
    grown.write_text(grown.read_text("utf-8") + late, "utf-8")
    update(project, [grown], recipe=recipes["update"], origins={}, suite="lamp", accept=True)
    matrix = evaluate(project, prefixes(project.stack()))
    publish("demo_recipes", {"recipes": {k: v.model_dump() for k, v in recipes.items()}, **matrix.to_dict()})


def _open(work: Path) -> tuple[Project, str]:
    """Return a fresh project with the dev split in it, and the rows that arrive late."""
    draw = random.Random(7)
    shipped = [dataclasses.replace(tool, phrasings=tool.phrasings[:-3]) for tool in TOOLS]
    taken: set[str] = set()
    train = tool_rows(draw, shipped[:-3], 608, taken, heldout=False, kept=2)
    dev = tool_rows(draw, shipped[:-3], 60, taken, heldout=True, kept=2)
    dev += tool_rows(draw, shipped[-3:], 40, taken, heldout=True, kept=2)
    known, unknown = lamp_pairs()
    late = lamp_rows(draw, known, TRAIN_PHRASINGS[:-2], 60)
    files = {
        "tools_train": train,
        "tools_dev": dev,
        "lamp_dev": lamp_rows(draw, unknown, TRAIN_PHRASINGS[-2:], 30),
        "facts_train": fact_rows(slice(None, 5)),
        "facts_dev": fact_rows(slice(5, 6)),
    }
    shutil.rmtree(work, ignore_errors=True)
    init_project(work, BaseSettings(), TerminalProgress())
    for name, rows in files.items():
        (work / f"{name}.jsonl").write_text(as_jsonl(rows), "utf-8")
    shutil.copy(data_path("general.jsonl"), work / "general.jsonl")
    config = work / "lamina.toml"
    config.write_text(config.read_text("utf-8") + "\n" + _SUITES, "utf-8")
    return open_project(work, TerminalProgress()), as_jsonl(late)


if __name__ == "__main__":
    main()
