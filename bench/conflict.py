"""Two real layers that want different answers to the same questions, trained apart and stacked.

    quiet   desk, ten of banking77's intents as they are written: card_arrival
    loud    board, the same in capitals: CARD ARRIVAL

Only the system message, one word, tells which answer is wanted. Each layer has seen its own rows alone and was trained
on the bare base, as layers are that come from two owners; their sum is what `lamina merge` and `rebase` start from. The
project is kept: a second run trains nothing.
"""

from __future__ import annotations

from pathlib import Path

from four_skills import read_intents
from skills import Pair, as_line

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings, Recipe
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files
from lamina.ops.train import make_layer
from lamina.stack.layers import write_stack
from lamina.stack.lineage import get_ref, set_ref
from lamina.stack.order import add_layer, mark_moved

SKILLS = {"quiet": "desk", "loud": "board"}
_RECIPE = Recipe(rank=16, batch_rows=8, learning_rate=1e-3, epochs=3.0)
_MAIN = "main"


def open_conflict(work: Path, data: Path, rows_per_skill: int) -> Project:
    """Return a project whose main is the sum of the two layers, trained on first use."""
    progress = TerminalProgress()
    if not (work / ".lamina").exists():
        init_project(work, BaseSettings(), progress)
        _write_rows(work, data)
    project = open_project(work, progress)
    if project.stack().layers:
        return project
    parent = both = project.stack()
    for name in SKILLS:
        sources, rows = read_files(project, [work / f"{name}_train.jsonl"])
        prepared = prepare_rows(project, sources, rows[:rows_per_skill], _RECIPE)
        made = make_layer(project, prepared, name=name, recipe=_RECIPE, origins={}, parent=parent)
        both = mark_moved(project.store, add_layer(project.store, both, made.layer))
    set_ref(project.store, _MAIN, write_stack(project.store, both), why="both", expect=get_ref(project.store, _MAIN))
    return project


def _write_rows(work: Path, data: Path) -> None:
    train, test = read_intents(data / "banking77")
    tables = []
    for name, system in SKILLS.items():
        for part, pairs in (("train", train), ("test", test)):
            lines = [as_line(system, *(pair if name == "quiet" else _loudly(pair))) for pair in pairs]
            (work / f"{name}_{part}.jsonl").write_text("".join(lines), "utf-8")
        tables.append(f'[suites.{name}]\nfile = "{name}_test.jsonl"\nscorer = "exact"\nmax_tokens = 24\n')
    config = work / "lamina.toml"
    config.write_text(config.read_text("utf-8") + "\n" + "\n".join(tables), "utf-8")


def _loudly(pair: Pair) -> Pair:
    return pair[0], pair[1].replace("_", " ").upper()
