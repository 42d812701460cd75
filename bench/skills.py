"""One layer against the bare base, on real data: banking77 intents and snips sentences as JSON calls.

    python bench/skills.py [banking77] [snips] [--data ../shared/data] [--work build/bench]

Each task is an ordinary lamina project under ``--work``, so a stopped run goes on where it was. What is trained and
which stack counts as the best is decided on ``dev`` rows taken from the training file; the test rows are scored at the
end. Rows of the training file whose text stands in the test file as well are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import publish

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings, Recipe
from lamina.ops.evaluate import evaluate, prefixes
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files
from lamina.ops.train import train_layer
from lamina.stack.layers import read_layer

DEV_ROWS = 500
SNIPS_ROWS_PER_CALL = 300
Pair = tuple[str, str]

BANKING = {
    "pass1": Recipe(rank=16, learning_rate=1e-3, epochs=1.0, batch_rows=16, heldout=0.0, replay=0.0),
    "pass2-4": Recipe(rank=16, learning_rate=1e-3, epochs=3.0, batch_rows=16, heldout=0.0, replay=0.0, seed=1),
}
SNIPS = {"calls": Recipe(rank=16, learning_rate=1e-3, epochs=1.0, batch_rows=8, heldout=0.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["banking77", "snips"], metavar="TASK")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    for task in options.tasks:
        publish(f"skills-{task}", TASKS[task](options.data, options.work / task))


def banking77(data: Path, work: Path) -> dict[str, Any]:
    """Measure the intents of bank customers' questions: the label, letter for letter."""
    folder = data / "banking77"
    test = read_banking(folder / "test.csv")
    train = without(read_banking(folder / "train.csv"), test)
    return _run(work, "banking77 intent", train, test, scorer="exact", max_tokens=24, recipes=BANKING, dev=DEV_ROWS)


def snips(data: Path, work: Path) -> dict[str, Any]:
    """Measure sentences as JSON calls: the same name and the same arguments."""
    folder = data / "snips_nlu"
    test = [pair for path in sorted(folder.glob("validate_*.json")) for pair in read_snips(path)]
    train = [
        pair
        for path in sorted(folder.glob("train_*_full.json"))
        for pair in sample(without(list(read_snips(path)), test), SNIPS_ROWS_PER_CALL)
    ]
    return _run(work, "snips call", train, test, scorer="call", max_tokens=96, recipes=SNIPS, dev=0)


TASKS = {"banking77": banking77, "snips": snips}


def _run(
    work: Path,
    system: str,
    train: list[Pair],
    test: list[Pair],
    *,
    scorer: str,
    max_tokens: int,
    recipes: dict[str, Recipe],
    dev: int,
) -> dict[str, Any]:
    shuffled = sample(train, len(train))
    files = {"dev": shuffled[:dev], "train": shuffled[dev:], "test": test}
    project = _open(work, {name: rows for name, rows in files.items() if rows}, system, scorer, max_tokens)
    sources, rows = read_files(project, [work / "train.jsonl"])
    for name, recipe in recipes.items():
        if all(entry.name != name for entry in project.stack().layers):
            train_layer(project, prepare_rows(project, sources, rows, recipe), name=name, recipe=recipe, origins={})
    stack = project.stack()
    suites = [name for name in ("dev", "test") if files[name]]
    matrix = evaluate(project, prefixes(stack), suites)
    layers = [read_layer(project.store, entry.layer) for entry in stack.layers]
    figures: dict[str, Any] = {
        "train_rows": len(rows),
        "layers": {layer.name: {"recipe": layer.recipe, "tokens": layer.cost.tokens} for layer in layers},
        **matrix.to_dict(),
    }
    if dev:
        scored = [row[0].mean for row in matrix.scores]
        figures["best_on_dev"] = matrix.stacks[scored.index(max(scored))]
    return figures


def _open(work: Path, files: dict[str, list[Pair]], system: str, scorer: str, max_tokens: int) -> Project:
    progress = TerminalProgress()
    if (work / ".lamina").exists():
        return open_project(work, progress)
    init_project(work, BaseSettings(), progress)
    for name, pairs in files.items():
        (work / f"{name}.jsonl").write_text("".join(as_line(system, *pair) for pair in pairs), "utf-8")
    tables = [
        f'[suites.{name}]\nfile = "{name}.jsonl"\nscorer = "{scorer}"\nmax_tokens = {max_tokens}\n'
        for name in files
        if name != "train"
    ]
    config = work / "lamina.toml"
    config.write_text(config.read_text("utf-8") + "\n" + "\n".join(tables), "utf-8")
    return open_project(work, progress)


def as_line(system: str, question: str, answer: str) -> str:
    turns = (("system", system), ("user", question), ("assistant", answer))
    messages = [{"role": role, "content": content} for role, content in turns]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def read_banking(path: Path) -> list[Pair]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [(" ".join(row["text"].split()), row["category"]) for row in csv.DictReader(stream)]


def read_snips(path: Path) -> Iterator[Pair]:
    # train_PlayMusic_full.json is Latin-1, as the data set was published.
    raw = path.read_bytes()
    try:
        content = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        content = json.loads(raw.decode("latin-1"))
    ((intent, utterances),) = content.items()
    for utterance in utterances:
        parts = utterance["data"]
        arguments: dict[str, list[str]] = {}
        for part in parts:
            if "entity" in part:
                arguments.setdefault(part["entity"], []).append(part["text"].strip())
        single = {name: values[0] if len(values) == 1 else values for name, values in arguments.items()}
        sentence = " ".join("".join(part["text"] for part in parts).split())
        yield sentence, json.dumps({"name": intent, "arguments": single}, ensure_ascii=False)


def without(rows: list[Pair], others: list[Pair]) -> list[Pair]:
    seen = {text.casefold() for text, _ in others}
    kept = [row for row in rows if row[0].casefold() not in seen]
    print(f"{len(rows) - len(kept)} training rows stand in the test file and are left out", file=sys.stderr)
    return kept


def sample(rows: list[Pair], count: int) -> list[Pair]:
    return random.Random(0).sample(rows, min(count, len(rows)))


if __name__ == "__main__":
    main()
