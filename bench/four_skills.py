"""A real stack of four skills, trained layer on layer by lamina's own commands, and its squashes scored.

    tools   sentences to JSON calls (the demo's)             facts   a town that does not exist (the demo's)
    intents bank customers' questions, ten of banking77's    calls   two of snips' intents as JSON calls

The project lies under ``build/`` and is kept: a second run trains nothing and scores nothing twice.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from skills import Pair, as_line, read_banking, read_snips, sample, without

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings, Recipe
from lamina.demo.files import data_path
from lamina.lora.adapter import Adapter
from lamina.ops.demo import RECIPES
from lamina.ops.evaluate import find_suites, score_stack
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files
from lamina.ops.squash import squash
from lamina.ops.train import train_layer
from lamina.stack.layers import list_layers, write_stack
from lamina.stack.lineage import set_ref
from lamina.stack.manifest import StackConfig
from lamina.stack.order import add_layer

_SHARED: dict[str, Any] = {"rank": 16, "batch_rows": 8, "learning_rate": 1e-3, "replay": 0.3}
_RECIPES = {
    "tools": RECIPES["tools"],
    "facts": RECIPES["facts"],
    "intents": Recipe(**_SHARED, epochs=3.0),
    "calls": Recipe(**_SHARED, epochs=2.0),
}
_SCORING = {"tools": ("call", 32), "facts": ("exact", 12), "intents": ("exact", 24), "calls": ("call", 64)}
SKILLS = tuple(_SCORING)
_ITEMS = 60
_LABELS = 10
_ROWS_PER_LABEL = 40
_CALLS = ("RateBook", "GetWeather")
_ROWS_PER_CALL = 150
# Okabe and Ito's palette, told apart with any colour vision, with a marker each besides.
_STYLES = {
    "tools": ("#0072B2", "o"),
    "facts": ("#E69F00", "s"),
    "intents": ("#009E73", "^"),
    "calls": ("#CC79A7", "D"),
    "mean": ("#000000", "x"),
}


@dataclass(frozen=True)
class Squashed:
    """The stack at one rank: scores by skill with their mean, what was lost, and the held-out loss."""

    scores: dict[str, float]
    relative_error: float
    heldout_loss: float | None


def open_stack(work: Path, data: Path, rows_per_skill: int | None = None) -> Project:
    """Return a project whose main holds one layer for each skill there is data for, trained on first use.

    All rows take a quarter of an hour on two cores; ``rows_per_skill`` takes the first of each file.
    """
    project = open_rows(work, data)
    for name, recipe in _RECIPES.items():
        rows = work / f"{name}_train.jsonl"
        if rows.exists() and all(entry.name != name for entry in project.stack().layers):
            sources, found = read_files(project, [rows])
            prepared = prepare_rows(project, sources, found[:rows_per_skill], recipe)
            train_layer(project, prepared, name=name, recipe=recipe, origins={}, accept=True)
    return project


def open_rows(work: Path, data: Path) -> Project:
    """Return the project with every skill's rows and suite written, and whatever layers there are."""
    progress = TerminalProgress()
    if (work / ".lamina").exists():
        return open_project(work, progress)
    init_project(work, BaseSettings(), progress)
    for name in ("tools", "facts"):
        for part in ("train", "test"):
            shutil.copyfile(data_path(f"{name}_{part}.jsonl"), work / f"{name}_{part}.jsonl")
    if (data / "banking77").exists() and (data / "snips_nlu").exists():
        _write(work, "intents", "banking77 intent", *read_intents(data / "banking77"))
        _write(work, "calls", "snips call", *_calls(data / "snips_nlu"))
    names = [name for name in _SCORING if (work / f"{name}_test.jsonl").exists()]
    tables = [
        f'[suites.{name}]\nfile = "{name}_test.jsonl"\nscorer = "{scorer}"\nmax_tokens = {tokens}\nlimit = {_ITEMS}\n'
        for name, (scorer, tokens) in _SCORING.items()
        if name in names
    ]
    config = work / "lamina.toml"
    config.write_text(config.read_text("utf-8") + "\n" + "\n".join(tables), "utf-8")
    return open_project(work, progress)


def stack_adapters(project: Project) -> list[Adapter]:
    """Return the weights of the trained layers."""
    return project.adapters(project.stack().layers)


def squash_quality(project: Project) -> dict[int, Squashed]:
    """Return what the stack, squashed to ranks from the sum of its layers' down to an eighth, scores on every skill."""
    full = 16 * len(project.stack().layers)
    return {
        rank: _squashed(project, rank, full)
        for rank in (full, full * 3 // 4, full // 2, full * 3 // 8, full // 4, full // 8)
    }


def draw(quality: dict[int, Squashed], path: Path) -> None:
    """Draw error and scores over the rank."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    ranks = sorted(quality)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    left.plot(ranks, [100 * quality[rank].relative_error for rank in ranks], color="#000000", marker="o")
    left.set(xlabel="rank of the squashed layer", ylabel="relative error of the weights' change, %", ylim=(0, None))
    for name in next(iter(quality.values())).scores:
        colour, marker = _STYLES[name]
        width = 2.5 if name == "mean" else 1.2
        scores = [100 * quality[rank].scores[name] for rank in ranks]
        right.plot(ranks, scores, color=colour, marker=marker, linewidth=width, label=name)
    right.set(xlabel="rank of the squashed layer", ylabel="score, %", ylim=(0, 100))
    right.legend(frameon=False, ncols=2)
    for axis in (left, right):
        axis.set_xticks(ranks)
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def read_intents(folder: Path) -> tuple[list[Pair], list[Pair]]:
    """Return training and test rows of ten of banking77's intents, as pairs of question and label."""
    test, train = read_banking(folder / "test.csv"), read_banking(folder / "train.csv")
    labels = sorted({label for _, label in test})[:_LABELS]
    few = [row for label in labels for row in sample([pair for pair in train if pair[1] == label], _ROWS_PER_LABEL)]
    asked = sample([row for row in test if row[1] in labels], _ITEMS)
    return without(sample(few, len(few)), asked), asked


def _squashed(project: Project, rank: int, full: int) -> Squashed:
    stack = project.stack()
    exact = rank == full
    smaller = _known(project, stack, rank) or _squash(project, stack, None if exact else rank, f"rank{rank}")
    layer = dict(list_layers(project.store))[smaller.layers[0].layer]
    skills = [entry.name for entry in stack.layers]
    suites = find_suites(project)
    scores = {name: score_stack(project, smaller, suites[name]).mean for name in skills}
    scores["mean"] = sum(scores.values()) / len(scores)
    notes = layer.origin.notes if layer.origin else {}
    return Squashed(scores, notes.get("relative_error", 0.0), layer.heldout_loss_after)


def _known(project: Project, stack: StackConfig, rank: int) -> StackConfig | None:
    """Return the squash that an earlier run made."""
    parts = tuple(entry.layer for entry in stack.layers)
    for digest, layer in list_layers(project.store):
        if layer.name == f"rank{rank}" and layer.origin is not None and layer.origin.layers == parts:
            return add_layer(project.store, stack.model_copy(update={"layers": ()}), digest)
    return None


def _squash(project: Project, stack: StackConfig, rank: int | None, name: str) -> StackConfig:
    smaller = squash(project, rank=rank, name=name).stack
    # The branch goes back to the layers that the next rank is made from.
    set_ref(project.store, project.branch, write_stack(project.store, stack), why="measured")
    return smaller


def _calls(folder: Path) -> tuple[list[Pair], list[Pair]]:
    test = [row for name in _CALLS for row in sample(list(read_snips(folder / f"validate_{name}.json")), _ITEMS // 2)]
    train = [
        row
        for name in _CALLS
        for row in sample(without(list(read_snips(folder / f"train_{name}_full.json")), test), _ROWS_PER_CALL)
    ]
    return sample(train, len(train)), test


def _write(work: Path, name: str, system: str, train: list[Pair], test: list[Pair]) -> None:
    for part, pairs in (("train", train), ("test", test)):
        (work / f"{name}_{part}.jsonl").write_text("".join(as_line(system, *pair) for pair in pairs), "utf-8")
