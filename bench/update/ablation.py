"""What each part of training on top is worth: three skills in a row, one part changed at a time, on dev rows only.

    python bench/update/ablation.py [--data ../shared/data] [--work build/ablation] [--seconds 840]

Snips sentences as JSON calls, then word problems (mawps and ASDiv-A), then bank customers' questions with twenty
labels; the guard is a part of arc_easy. All rows come from training files, dev rows included; no test row is touched.
The first layer is shared by all variants of a seed, which then differ in the second and third.

loss     dev loss of each skill in nats per token after the last layer; loss_fresh just after its own layer
score    dev score of each skill after the last layer, and their mean
backward change of the first skill's score since it was learnt; backward_loss of the first two skills' loss, as a share
guard    change of the guard's score against the bare base, and of its reference answers' loss
cost     tokens and seconds of the second and third layer, all that is written or searched included

A stopped run goes on where it was, variant by variant; docs/design/stacking.md has the table.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from report import publish
from skills import Pair, as_line, read_banking, read_snips

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings, Recipe
from lamina.lora.adapter import Factors, load_adapter
from lamina.ops.evaluate import find_suites, score_stack
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files, render_rows
from lamina.ops.strength import skill_rows, weigh_change
from lamina.ops.train import make_layer
from lamina.stack.layers import read_layer
from lamina.stack.manifest import Cost, StackConfig
from lamina.stack.order import add_layer
from lamina.train.passes import row_losses

ROWS, DEV_ITEMS, GUARD_ITEMS, LABELS = 112, 48, 96, 20
SKILLS = {"calls": ("call", 72), "problems": ("number", 24), "intents": ("exact", 12)}
SHARED = {"epochs": 2.0, "batch_rows": 8, "rank": 16, "heldout": 0.15}
FIRST = {"replay": 0.0, "anchors": 0.0, "kl": 0.0, "scale": "one"}
DEFAULT = {"replay": 0.1, "anchors": 0.05, "kl": 0.5, "start": "apart", "scale": "searched"}
# In the order in which they run, so that a run that is cut short has the larger questions answered.
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "nothing": {"replay": 0.0, "anchors": 0.0, "kl": 0.0, "start": "seeded", "scale": "one"},
    "kl 0": {"kl": 0.0},
    "kl 1": {"kl": 1.0},
    "anchors 0": {"anchors": 0.0},
    "start seeded": {"start": "seeded"},
    "start orthogonal": {"start": "orthogonal"},
    "scale one": {"scale": "one"},
    "replay 0": {"replay": 0.0},
    "replay 0.05": {"replay": 0.05},
    "replay 0.3": {"replay": 0.3},
    "rate x 0.5": {"learning_rate": 3.75e-4},
    "rate x 2": {"learning_rate": 1.5e-3},
    "replay by rows": {"replay_by": "rows"},
    "decay 0.1": {"weight_decay": 0.1},
}
PLAN = [(0, name) for name in VARIANTS] + [(1, name) for name in VARIANTS]
# LiNeS: the scale at the first and at the last block, linear in between.
DEPTHS = ((0.5, 1.0), (0.75, 1.0), (0.75, 1.25), (1.0, 0.75), (1.0, 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/ablation"))
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further variant after so long")
    options = parser.parse_args()
    started = time.monotonic()
    project = open_(options.work, options.data)
    for seed, name in PLAN:
        path = options.work / f"{name.replace(' ', '-')}-{seed}.json"
        if not path.exists() and time.monotonic() - started < options.seconds:
            figures = measure(project, name, seed)
            path.write_text(json.dumps({"variant": name, "seed": seed, **figures}), "utf-8")
    done = [json.loads(path.read_text("utf-8")) for path in sorted(options.work.glob("*-[01].json"))]
    publish("update-ablation", {"rows": ROWS, "dev_items": DEV_ITEMS, "guard_items": GUARD_ITEMS, "variants": done})


def measure(project: Project, name: str, seed: int) -> dict[str, Any]:
    """Train the second and third layer as the variant says, and measure all skills."""
    project.progress.note(f"== {name}, seed {seed}")
    stacks = [project.stack()]
    costs = []
    for place, skill in enumerate(SKILLS):
        changed = FIRST if place == 0 else DEFAULT | {"learning_rate": 7.5e-4} | VARIANTS[name]
        recipe = Recipe.model_validate(SHARED | {"learning_rate": 7.5e-4, "seed": seed} | changed)
        files, rows = read_files(project, [project.store.project / f"{skill}.jsonl"])
        data = prepare_rows(project, files, rows, recipe)
        made = make_layer(project, data, name=skill, recipe=recipe, origins={}, parent=stacks[-1])
        stacks.append(add_layer(project.store, stacks[-1], made.layer, made.scale))
        costs.append(read_layer(project.store, made.layer).cost)
    figures = _judge(project, stacks) | {"cost": Cost.total(costs[1:]).model_dump()}
    figures["scales"] = [entry.scale for entry in stacks[-1].layers]
    if name == "default":
        figures["depth"] = _depth(project, stacks[-1], data.heldout_tokens)
    return figures


def _judge(project: Project, stacks: Sequence[StackConfig]) -> dict[str, Any]:
    suites = find_suites(project)
    after = {name: score_stack(project, stacks[-1], suites[name], "last") for name in suites}
    fresh = score_stack(project, stacks[1], suites["calls"], "calls")
    losses = {name: _dev_loss(project, stacks[-1], name) for name in SKILLS}
    first = {name: _dev_loss(project, stacks[place], name) for place, name in enumerate(SKILLS, start=1)}
    bare = score_stack(project, stacks[0], suites["arc"], "base")
    return {
        "loss": losses,
        "loss_fresh": first,
        "score": {name: after[name].mean for name in SKILLS},
        "score_mean": sum(after[name].mean for name in SKILLS) / len(SKILLS),
        "backward": after["calls"].mean - fresh.mean,
        "backward_loss": sum(losses[name] / first[name] - 1 for name in list(SKILLS)[:2]) / 2,
        "guard": after["arc"].mean - bare.mean,
        "guard_loss": _mean(after["arc"].nll) - _mean(bare.nll),
        "guard_base": bare.mean,
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _dev_loss(project: Project, stack: StackConfig, skill: str) -> float:
    _, rows = read_files(project, [project.store.project / f"{skill}_dev.jsonl"])
    tokens = render_rows(project, rows, project.loaded.context)
    losses = row_losses(project.activate(stack), tokens)
    return sum(losses) / sum(row.trained_count for row in tokens)


def _depth(project: Project, stack: StackConfig, heldout: Any) -> list[dict[str, Any]]:
    """Return what scales of the last layer that are linear in depth do to held-out and to dev rows, against one."""
    parent, top = stack.prefix(-1), read_layer(project.store, stack.layers[-1].layer)
    adapter = load_adapter(project.store.blob_path(top.weights))
    held = skill_rows(project, parent, heldout, 1e9)
    dev = []
    for skill in SKILLS:
        _, rows = read_files(project, [project.store.project / f"{skill}_dev.jsonl"])
        dev.append(render_rows(project, rows, project.loaded.context))
    found, before = [], {}
    for first, last in ((1.0, 1.0), *((scale, scale) for scale in (0.5, 0.75, 1.25)), *DEPTHS):
        base = project.activate(parent, top=(_by_depth(adapter, first, last), 1.0))
        line: dict[str, Any] = {"first": first, "last": last}
        for kind, sets in (("heldout", held), ("dev", dev)):
            losses = [row_losses(base, rows) for rows in sets]
            before.setdefault(kind, losses)
            counts = [[row.trained_count for row in rows] for rows in sets]
            line[kind] = weigh_change(before[kind], losses, counts)
        found.append(line)
    return found


def _by_depth(adapter: dict[str, Factors], first: float, last: float) -> dict[str, Factors]:
    blocks = {path: next(int(part) for part in path.split(".") if part.isdigit()) for path in adapter}
    highest = max(blocks.values())
    return {
        path: Factors(factors.A, factors.B * (first + (last - first) * blocks[path] / highest))
        for path, factors in adapter.items()
    }


def open_(work: Path, data: Path) -> Project:
    """Return the project, with its files written on the first call."""
    progress = TerminalProgress()
    if (work / ".lamina").exists():
        return open_project(work, progress)
    init_project(work, BaseSettings(), progress)
    tables = []
    for skill, pairs in _pairs(data).items():
        rows = list(dict(pairs).items())
        random.Random(0).shuffle(rows)
        parts = {f"{skill}_dev": rows[:DEV_ITEMS], skill: rows[DEV_ITEMS : DEV_ITEMS + ROWS]}
        for name, part in parts.items():
            (work / f"{name}.jsonl").write_text("".join(as_line(skill, *pair) for pair in part), "utf-8")
        scorer, longest = SKILLS[skill]
        tables.append(f'[suites.{skill}]\nfile = "{skill}_dev.jsonl"\nscorer = "{scorer}"\nmax_tokens = {longest}\n')
    guard = (data / "regression" / "arc_easy.jsonl").read_text("utf-8").splitlines()
    (work / "arc.jsonl").write_text("\n".join(random.Random(0).sample(guard, GUARD_ITEMS)), "utf-8")
    tables.append('[suites.arc]\nfile = "arc.jsonl"\nscorer = "choice"\n')
    config = work / "lamina.toml"
    config.write_text(config.read_text("utf-8") + "\n" + "\n".join(tables), "utf-8")
    return open_project(work, progress)


def _pairs(data: Path) -> dict[str, list[Pair]]:
    calls = [pair for path in sorted((data / "snips_nlu").glob("train_*_full.json")) for pair in read_snips(path)]
    banking = read_banking(data / "banking77" / "train.csv")
    labels = random.Random(0).sample(sorted({label for _, label in banking}), LABELS)
    intents = [(text, label) for text, label in banking if label in labels]
    return {"calls": calls, "problems": _problems(data / "svamp" / "mawps-asdiv-a_train.csv"), "intents": intents}


def _problems(path: Path) -> list[Pair]:
    pairs = []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            question, first = row["Question"], row["Equation"].split()
            if len(first) != 3:  # one operation each: more would be another skill
                continue
            names = {f"number{place}": f"{float(number):g}" for place, number in enumerate(row["Numbers"].split())}
            for name, number in names.items():
                question = question.replace(name, number)
            sign, left, right = (names.get(part, part) for part in first)
            pairs.append((question, f"{left} {sign} {right} = {float(row['Answer']):g}"))
    return pairs


if __name__ == "__main__":
    main()
