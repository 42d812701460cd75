"""What each part of training on top is worth: a skill on top of another, one part changed at a time, on dev rows only.

    python bench/update/ablation.py [--rows 60] [--data ../shared/data] [--work build/ablation] [--seconds 840]

Word problems (mawps and ASDiv-A, one operation each), then bank customers' questions with twenty labels. Sixty rows
each, or 240, where only what is mixed in is varied; all rows come from training files, dev rows included, and no test
row is touched. Losses tell smaller differences from few rows than scores do, so it is by the dev rows' loss that
variants are compared.

old, new, guard  mean loss in nats per token on 64 dev rows of each skill, and on the right answers of 64 arc_easy items
..._vs_default   that loss relative to the default's, mean over seeds, and its standard error: of the mean over seeds
                 or over rows, paired, whichever is larger
tokens, seconds  of the second layer, all that was written or searched included
scales           the default's second layer at other scales: the same in all blocks, or linear in depth (LiNeS)

The first layer is shared by all variants of a seed. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from report import publish
from skills import Pair, as_line, read_banking

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings, Recipe
from lamina.lora.adapter import Factors, load_adapter
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.rows import prepare_rows, read_files, render_rows
from lamina.ops.strength import SkillRows, find_strength, weigh_change
from lamina.ops.train import make_layer
from lamina.records import Conversation, Message, TokenRow
from lamina.stack.layers import read_layer
from lamina.stack.manifest import StackConfig
from lamina.stack.order import add_layer
from lamina.train.passes import row_losses

DEV_ROWS, LABELS = 64, 20
SETS = {"old": "problems", "new": "intents", "guard": "arc"}
SHARED = {"epochs": 2.0, "batch_rows": 8, "rank": 16, "heldout": 0.15, "learning_rate": 7.5e-4, "scale": "one"}
FIRST = {"replay": 0.0, "anchors": 0.0, "kl": 0.0}
DEFAULT = {"replay": 0.1, "anchors": 0.0, "kl": 0.5, "start": "apart"}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "nothing": FIRST | {"start": "seeded"},
    "replay 0": {"replay": 0.0},
    "replay 0.05": {"replay": 0.05},
    "replay 0.2": {"replay": 0.2},
    "replay 0.3": {"replay": 0.3},
    "replay by rows": {"replay_by": "rows"},
    "kl 0": {"kl": 0.0},
    "kl 1": {"kl": 1.0},
    "anchors 0.05": {"anchors": 0.05},
    "anchors 0.2": {"anchors": 0.2},
    "start seeded": {"start": "seeded"},
    "start orthogonal": {"start": "orthogonal"},
    "rate x 0.5": {"learning_rate": 3.75e-4},
    "rate x 2": {"learning_rate": 1.5e-3},
    "decay 0.1": {"weight_decay": 0.1},
}
MIXED = {
    "default": {},
    "replay 0": {"replay": 0.0},
    "replay 0.2": {"replay": 0.2},
    "replay 0.3": {"replay": 0.3},
    "anchors 0.1": {"anchors": 0.1},
    "anchors 0.2": {"anchors": 0.2},
    "replay 0.2, anchors 0.1": {"replay": 0.2, "anchors": 0.1},
}
# Variants and seeds by rows of a skill.
PLANS = {60: (VARIANTS, (0, 1, 2)), 240: (MIXED, (0, 1))}
# A layer's scale at its first and at its last block, linear in between.
SCALES = ((0.5, 0.5), (0.75, 0.75), (1.25, 1.25), (0.5, 1.0), (0.75, 1.25), (1.0, 0.5), (1.25, 0.75))
Losses = dict[str, tuple[list[float], list[int]]]


@dataclass(frozen=True)
class Bench:
    """The project, with each set's dev rows rendered."""

    project: Project
    dev: dict[str, list[TokenRow]]

    def losses(self) -> Losses:
        """Return each dev row's summed loss and trained tokens, under what is attached to the base."""
        return {
            role: (row_losses(self.project.loaded, rows), [row.trained_count for row in rows])
            for role, rows in self.dev.items()
        }

    def make(self, parent: StackConfig, skill: str, changed: dict[str, Any]) -> tuple[StackConfig, list[TokenRow]]:
        """Return ``parent`` with a layer of that skill on top, and its held-out rows."""
        recipe = Recipe.model_validate(SHARED | changed)
        files, rows = read_files(self.project, [self.project.store.project / f"{skill}.jsonl"])
        data = prepare_rows(self.project, files, rows, recipe)
        made = make_layer(self.project, data, name=skill, recipe=recipe, origins={}, parent=parent)
        return add_layer(self.project.store, parent, made.layer), list(data.heldout_tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, choices=PLANS, default=60, help="rows of each skill")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/ablation"))
    parser.add_argument("--seconds", type=float, default=math.inf, help="start no further variant after so long")
    options = parser.parse_args()
    over = time.monotonic() + options.seconds
    variants, seeds = PLANS[options.rows]
    work = options.work / str(options.rows)
    bench = open_bench(work, options.data, options.rows)
    path = work / "losses.jsonl"
    done = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []
    for seed in seeds:
        for name, changed in variants.items():
            if not any((line["variant"], line["seed"]) == (name, seed) for line in done) and time.monotonic() < over:
                done += [line | {"seed": seed} for line in measure(bench, name, changed, seed)]
                path.write_text("".join(json.dumps(line) + "\n" for line in done), "utf-8")
    suffix = "" if variants is VARIANTS else f"-{options.rows}"
    publish(f"update-ablation{suffix}", {"rows": options.rows, "dev_rows": DEV_ROWS, "variants": compare(done)})


def measure(bench: Bench, name: str, changed: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Return the dev losses that a variant's second layer gives, for the default also at other scales."""
    bench.project.progress.note(f"== {name}, seed {seed}")
    one, _ = bench.make(bench.project.stack(), SETS["old"], FIRST | {"seed": seed})
    two, heldout = bench.make(one, SETS["new"], DEFAULT | changed | {"seed": seed})
    top = read_layer(bench.project.store, two.layers[-1].layer)
    bench.project.activate(two)
    found = [{"variant": name, **bench.losses(), "tokens": top.cost.tokens, "seconds": top.cost.seconds}]
    if name == "default":
        bench.project.activate(one)
        found.append({"variant": "without the second layer", **bench.losses()})
        adapter = load_adapter(bench.project.store.blob_path(top.weights))
        own = SkillRows(heldout, top.heldout_loss_before, top.heldout_loss_after)
        strength = find_strength(bench.project, one, adapter, own, tokens=10**9)
        for first, last in (*SCALES, (strength.scale, strength.scale)):
            bench.project.activate(one, top=(by_depth(adapter, first, last), 1.0))
            found.append({"variant": f"scale {first:g} to {last:g}", **bench.losses()})
        found[-1]["variant"] = "scale searched"
    return found


def compare(done: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each variant's losses, and how they lie to the default's of the same seed."""
    defaults = {line["seed"]: line for line in done if line["variant"] == "default"}
    told = []
    for name in dict.fromkeys(line["variant"] for line in done):
        lines = [line for line in done if line["variant"] == name]
        line: dict[str, Any] = {"variant": name, "seeds": len(lines)}
        for key in ("tokens", "seconds"):
            if key in lines[0]:
                line[key] = statistics.mean(each[key] for each in lines)
        for role in SETS:
            line[role] = statistics.mean(sum(each[role][0]) / sum(each[role][1]) for each in lines)
            line[f"{role}_vs_default"] = _against([(defaults[each["seed"]][role], each[role]) for each in lines])
        told.append(line)
    return told


def _against(pairs: Sequence[tuple[Any, Any]]) -> list[float]:
    each = [weigh_change([before[0]], [after[0]], [after[1]], [None]) for before, after in pairs]
    changes = [change for change, _ in each]
    of_rows = statistics.mean(error for _, error in each)
    of_seeds = statistics.stdev(changes) / math.sqrt(len(changes)) if len(changes) > 1 else 0.0
    return [statistics.mean(changes), max(of_rows, of_seeds)]


def by_depth(adapter: dict[str, Factors], first: float, last: float) -> dict[str, Factors]:
    """Return the adapter at scale ``first`` in the first block and ``last`` in the last, linear in between."""
    blocks = {path: next(int(part) for part in path.split(".") if part.isdigit()) for path in adapter}
    highest = max(blocks.values())
    return {
        path: Factors(factors.A, factors.B * (first + (last - first) * blocks[path] / highest))
        for path, factors in adapter.items()
    }


def open_bench(work: Path, data: Path, count: int) -> Bench:
    """Return the project with its dev rows; its files are written on the first call."""
    progress = TerminalProgress()
    if not (work / ".lamina").exists():
        init_project(work, BaseSettings(), progress)
        labels, banking = random.Random(0), read_banking(data / "banking77" / "train.csv")
        chosen = labels.sample(sorted({label for _, label in banking}), LABELS)
        skills = {
            "problems": read_problems(data / "svamp" / "mawps-asdiv-a_train.csv"),
            "intents": [(text, label) for text, label in banking if label in chosen],
        }
        for skill, pairs in skills.items():
            rows = list(dict(pairs).items())
            random.Random(0).shuffle(rows)
            for name, part in ((f"{skill}_dev", rows[:DEV_ROWS]), (skill, rows[DEV_ROWS : DEV_ROWS + count])):
                (work / f"{name}.jsonl").write_text("".join(as_line(skill, *pair) for pair in part), "utf-8")
    project = open_project(work, progress)
    dev = [read_files(project, [work / f"{SETS[role]}_dev.jsonl"])[1] for role in ("old", "new")]
    items = (data / "regression" / "arc_easy.jsonl").read_text("utf-8").splitlines()
    guard = [_right(json.loads(item)) for item in random.Random(0).sample(items, DEV_ROWS)]
    sets = zip(SETS, (*dev, guard), strict=True)
    return Bench(project, {role: render_rows(project, rows, project.loaded.context) for role, rows in sets})


def _right(item: dict[str, Any]) -> Conversation:
    return Conversation((Message("user", item["query"]), Message("assistant", item["choices"][item["gold"]])))


def read_problems(path: Path) -> list[Pair]:
    """Return word problems of one operation, the calculation as the answer."""
    pairs = []
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            question, terms = row["Question"], row["Equation"].split()
            if len(terms) != 3:
                continue
            names = {f"number{place}": f"{float(number):g}" for place, number in enumerate(row["Numbers"].split())}
            for name, number in names.items():
                question = question.replace(name, number)
            sign, left, right = (names.get(term, term) for term in terms)
            pairs.append((question, f"{left} {sign} {right} = {float(row['Answer']):g}"))
    return pairs


if __name__ == "__main__":
    main()
