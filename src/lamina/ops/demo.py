"""``lamina demo``: a small model gains two stacked skills and an update, with proof, in minutes.

The folder it works in is an ordinary project: `lamina log`, `chat` and `train` go on from there. Every stage leaves
its result in the store, so an interrupted demo goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from lamina.config import BaseSettings, Recipe
from lamina.demo.files import data_path
from lamina.ops.chart import write_charts
from lamina.ops.chat import answer
from lamina.ops.evaluate import evaluate, prefixes
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files
from lamina.ops.train import train_layer
from lamina.ops.update import update
from lamina.records import Matrix, Message, Progress, SideBySide
from lamina.stack.manifest import StackConfig

__all__ = ["RECIPES", "DemoResult", "run_demo"]

_SUITES = """
[suites.tools]                # sentences to JSON calls; 80 of the 200 use tools that no layer has seen
file = "tools_test.jsonl"
scorer = "call"
max_tokens = 32
limit = 100                   # delete this line to score all 200

[suites.lamp]                 # a tool that arrives later, with a convention of its own
file = "tools_late_test.jsonl"
scorer = "call"
max_tokens = 32

[suites.facts]                # a town that does not exist, asked about in new words
file = "facts_test.jsonl"
scorer = "exact"
max_tokens = 12

[suites.general]              # what the base knows already and must keep
file = "general.jsonl"
scorer = "choice"
guard = true
"""
# Chosen by bench/demo_recipes.py on rows held out of training; what else was tried stands in docs/design/demo.md.
RECIPES = {
    "tools": Recipe(rank=16, batch_rows=8, learning_rate=1e-3, epochs=1.0),
    "facts": Recipe(rank=16, batch_rows=8, learning_rate=5e-4, epochs=3.0, heldout=0.0, replay=1.0),
    "update": Recipe(rank=16, batch_rows=4, learning_rate=7e-4, epochs=2.0, heldout=0.0, replay=1.0),
}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo measured and wrote."""

    matrix: Matrix
    sides: tuple[SideBySide, ...]
    chart: Path
    report: Path
    elapsed_s: float


def run_demo(folder: Path, progress: Progress) -> DemoResult:
    """Train, stack, update and measure in ``folder``; what is there from an earlier run is kept.

    Raises:
        LaminaError: as the single commands do.
    """
    started = time.monotonic()
    project = _open(folder, progress)
    _train(project, "tools", "1/3  Layer 1, tools: a sentence becomes a JSON function call")
    _train(project, "facts", "2/3  Layer 2, facts: a town that no model can know, stacked on top")
    _update(project)
    stack = project.stack()
    matrix = evaluate(project, prefixes(stack))
    sides = _ask(project, stack)
    title = "One base, two skills, one update: what each layer did"
    pictures, page = write_charts(project, matrix, stack, folder / "charts", title=title, sides=sides)
    return DemoResult(matrix, tuple(sides), pictures[0], page, time.monotonic() - started)


def _open(folder: Path, progress: Progress) -> Project:
    if (folder / ".lamina").exists():
        progress.note(f"Going on in {folder}")
        return open_project(folder, progress)
    project = init_project(folder, BaseSettings(), progress)
    for name in ("tools_train", "tools_test", "tools_late_test", "facts_train", "facts_test", "general"):
        shutil.copyfile(data_path(f"{name}.jsonl"), folder / f"{name}.jsonl")
    config = project.store.project / "lamina.toml"
    config.write_text(config.read_text("utf-8") + _SUITES, "utf-8")
    return open_project(folder, progress)


def _train(project: Project, name: str, title: str) -> None:
    project.progress.note(title)
    if any(entry.name == name for entry in project.stack().layers):
        project.progress.note("done before")
        return
    recipe = RECIPES[name]
    files, rows = read_files(project, [project.store.project / f"{name}_train.jsonl"])
    data = prepare_rows(project, files, rows, recipe)
    # What the gate thinks is shown in the matrix; a demo that stopped at a refusal would show nothing.
    train_layer(project, data, name=name, recipe=recipe, origins={}, accept=True)


def _update(project: Project) -> None:
    project.progress.note("3/3  Update: 60 rows for a new tool have arrived in tools_train.jsonl")
    if any(entry.name == "tools.2" for entry in project.stack().layers):
        project.progress.note("done before")
        return
    file = project.store.project / "tools_train.jsonl"
    file.write_text(
        data_path("tools_train.jsonl").read_text("utf-8") + data_path("tools_late_train.jsonl").read_text("utf-8")
    )
    update(project, [file], recipe=RECIPES["update"], origins={}, suite="lamp", accept=True)


def _ask(project: Project, stack: StackConfig) -> list[SideBySide]:
    # The first row of each test file, whatever it is: picked answers would show what we like.
    files = ("tools_test.jsonl", "tools_late_test.jsonl", "facts_test.jsonl")
    asked = [json.loads(data_path(name).read_text("utf-8").splitlines()[0])["messages"] for name in files]
    stacks = [prefixes(stack)[0], prefixes(stack)[-1]]
    sides = []
    for turns in asked:
        prompt = [Message(turn["role"], turn["content"]) for turn in turns[:-1]]
        said = [(label, answer(project, config, prompt, max_tokens=40)) for label, config in stacks]
        sides.append(SideBySide(prompt[-1].content, turns[-1]["content"], tuple(said)))
    return sides
