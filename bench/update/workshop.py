"""Where the runs of ``bench/update.py`` lie: a lamina project for each seed, a branch for each run, all resumable."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stream import SKILLS, UPDATED, Cut, Row, Skill, read_skills

from lamina.config import BaseSettings, Recipe
from lamina.evaluate.suites import Suite
from lamina.ops.evaluate import evaluate, find_suites
from lamina.ops.project import Project, init_project, open_project
from lamina.ops.results import read_score
from lamina.ops.rows import TrainingData, prepare_rows, read_files
from lamina.ops.train import make_layer
from lamina.records import Matrix, Progress
from lamina.refs import Digest
from lamina.stack.layers import read_stack, write_stack
from lamina.stack.lineage import get_ref, set_head, set_ref
from lamina.stack.manifest import StackConfig
from lamina.stack.order import add_layer
from lamina.stack.store import write_atomically
from lamina.train.choose import DataSize, choose

__all__ = [
    "FULL",
    "GUARDS",
    "POINTS",
    "QUICK",
    "SCORING",
    "STAGES",
    "SVAMP",
    "Plan",
    "Stage",
    "Workshop",
    "dev_suite",
    "open_workshop",
]

GUARDS = ("arc_easy", "piqa")
SVAMP = "svamp"
# Each skill's scorer and the longest answer in tokens.
SCORING = {
    "dialogue": ("rouge", 64),
    "reasoning": ("number", 32),
    "tools": ("call", 96),
    "classification": ("exact", 20),
}


@dataclass(frozen=True)
class Stage:
    """One step of the sequence: a skill's first rows, or its update, whose layer is called ``SKILL.2``."""

    skill: str
    is_update: bool = False

    @property
    def name(self) -> str:
        """The layer's name."""
        return f"{self.skill}.2" if self.is_update else self.skill


STAGES = (*map(Stage, SKILLS), *(Stage(skill, is_update=True) for skill in UPDATED))
# A point is how many stages have been; at the last ones there is an update to compare with a full retraining.
POINTS = tuple(range(1, len(STAGES) + 1))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How large a run is.

    Attributes:
        name: for people and for the results' file.
        cut: rows and items of every skill.
        guards: items of each guard.
        svamp: items of SVAMP for the last stacks' score; 0 leaves it at the reasoning suite.
        seeds: training seeds.
        orders: how many of ``ORDERS`` are run.
        sequential_rates: learning rates tried for the sequential baseline, as shares of the chosen one.
        joint_rates: the same for joint training.
        points: where a full retraining is run with the first seed; the last point is run with every seed.
        planted: how many layers the gate is asked about.
    """

    name: str
    cut: Cut
    guards: int
    svamp: int
    seeds: tuple[int, ...]
    orders: int
    sequential_rates: tuple[float, ...]
    joint_rates: tuple[float, ...]
    points: tuple[int, ...]
    planted: int

    def scaled(self, share: float) -> Plan:
        """Return the plan with this share of rows and items."""
        if share == 1:
            return self

        def part(count: int, least: int) -> int:
            return max(least, round(share * count)) if count else 0

        cut = Cut(
            rows=part(self.cut.rows, 20),
            dev=part(self.cut.dev, 8),
            test=part(self.cut.test, 8),
            labels=part(self.cut.labels, 5),
        )
        return replace(
            self,
            name=f"{self.name}-{share:g}",
            cut=cut,
            guards=part(self.guards, 8),
            svamp=part(self.svamp, 8),
            planted=part(self.planted, 2),
        )


QUICK = Plan(
    name="quick",
    cut=Cut(rows=64, dev=16, test=30, labels=10),
    guards=60,
    svamp=0,
    seeds=(0,),
    orders=2,
    sequential_rates=(1.0,),
    joint_rates=(1.0,),
    points=(7,),
    planted=6,
)
FULL = Plan(
    name="full",
    # So many that everything takes two passes, and the whole less than four hours on two cores.
    cut=Cut(rows=500, dev=60, test=150, labels=40),
    guards=500,
    svamp=1000,
    seeds=(0, 1),
    orders=4,
    sequential_rates=(1.0,),
    joint_rates=(1.0,),
    points=(4, 5, 6, 7),
    planted=200,
)


@dataclass(frozen=True)
class Workshop:
    """An open project of one seed."""

    plan: Plan
    seed: int
    project: Project

    def sibling(self, seed: int) -> Workshop | None:
        """Return the project of another seed, None if it has not been begun."""
        folder = self.project.store.project.parent / f"seed{seed}"
        if not (folder / "ready").exists():
            return None
        return Workshop(self.plan, seed, open_project(folder, self.project.progress))

    @property
    def recipe(self) -> Recipe:
        """The product's defaults with this seed."""
        return Recipe(seed=self.seed)

    @property
    def bare(self) -> StackConfig:
        """The base without layers."""
        return StackConfig(base=self.project.base.pin, layers=())

    def file(self, kind: str, name: str) -> Path:
        """Return where rows lie: ``first``, ``added`` and ``grown`` by skill, ``joint`` by point."""
        return self.project.store.project / kind / f"{name}.jsonl"

    def rows_of(self, stage: Stage) -> Path:
        """Return the rows that a stage brings."""
        return self.file("added" if stage.is_update else "first", stage.skill)

    def prepared(self, path: Path, recipe: Recipe) -> TrainingData:
        """Return a file's rows, ready to train on."""
        return prepare_rows(self.project, *read_files(self.project, [path]), recipe)

    def grown(self, parent: StackConfig, rows: Path, name: str, recipe: Recipe) -> StackConfig:
        """Return ``parent`` with a layer on top, trained on a file's rows; what was trained before is found again."""
        data = self.prepared(rows, recipe)
        made = make_layer(self.on("main"), data, name=name, recipe=recipe, origins={}, parent=parent)
        return add_layer(self.project.store, parent, made.layer, made.scale)

    def held(self, branch: str) -> StackConfig | None:
        """Return the stack of a branch; None if there is no such branch yet."""
        digest = get_ref(self.project.store, branch)
        return None if digest is None else read_stack(self.project.store, digest)

    def keep(self, branch: str, stack: StackConfig) -> None:
        """Point a branch at a stack."""
        set_ref(self.project.store, branch, write_stack(self.project.store, stack), why="bench")

    def on(self, branch: str) -> Project:
        """Return the project with ``branch`` current, made at the bare base if it is not there."""
        if self.held(branch) is None:
            self.keep(branch, self.bare)
        set_head(self.project.store, branch)
        return self.project

    def suites(self) -> dict[str, Suite]:
        """Return the suites by name."""
        return find_suites(self.on("main"))

    def score(self, stacks: Sequence[tuple[str, StackConfig]], suites: Sequence[str]) -> Matrix:
        """Return the scores, each measured once."""
        return evaluate(self.on("main"), stacks, suites)

    def known(self, stacks: Sequence[tuple[str, StackConfig]], suites: Sequence[str]) -> Matrix | None:
        """Return the scores if all of them have been measured; nothing is measured now."""
        every = self.suites()
        rows = []
        for _, stack in stacks:
            row = [read_score(self.project.store, stack, every[name].digest) for name in suites]
            if None in row:
                return None
            rows.append(tuple(score for score in row if score is not None))
        return Matrix(tuple(label for label, _ in stacks), tuple(suites), tuple(rows))

    def write_note(self, name: str, note: dict[str, Any]) -> None:
        """Keep what a step had to tell."""
        folder = self.project.store.project / "notes"
        folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{name}.json", json.dumps(note).encode())

    def read_note(self, name: str) -> dict[str, Any]:
        """Return what a step had to tell, nothing if it was stopped before it could."""
        path = self.project.store.project / "notes" / f"{name}.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {}


def open_workshop(
    plan: Plan, seed: int, data: Path, work: Path, progress: Progress, base: BaseSettings | None = None
) -> Workshop:
    """Return the project of a seed, made on first use; on the bundled base unless ``base`` says another.

    Its folder is named after the rows, the items, the recipe's defaults and what is chosen for a skill's rows, so that
    runs of other sizes, defaults or rules are never mixed.
    """
    skills = read_skills(data, plan.cut)
    guards = {name: _sampled(data / "regression" / f"{name}.jsonl", plan.guards) for name in GUARDS}
    files = _files(skills, plan, data) | {f"guard/{name}": lines for name, lines in guards.items()}
    size = DataSize(rows=plan.cut.rows, trained_tokens=plan.cut.rows, parameters_per_rank=1)
    chosen = [
        {key: choice.value for key, choice in choose(replace(size, is_known=known), Recipe()).items()}
        for known in (False, True)
    ]
    same = [files, Recipe().model_dump(mode="json"), chosen, asdict(plan.cut)]
    key = Digest.of_bytes(json.dumps(same, sort_keys=True).encode()).short
    folder = work / f"{plan.name}-{key}" / f"seed{seed}"
    if not (folder / "ready").exists():
        _make(folder, files, base or BaseSettings(), progress)
    return Workshop(plan, seed, open_project(folder, progress))


def dev_suite(skill: str) -> str:
    """Return the name of a skill's dev suite, on which learning rates are chosen."""
    return f"dev_{skill}"


def _make(folder: Path, files: dict[str, list[str]], base: BaseSettings, progress: Progress) -> None:
    for name, lines in files.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    if not (folder / "lamina.toml").exists():
        init_project(folder, base, progress)
    config = folder / "lamina.toml"
    written = config.read_text("utf-8").split("\n[suites.")[0].rstrip()
    config.write_text("\n".join([written, *_tables(files)]), "utf-8")
    (folder / "ready").touch()


def _tables(files: dict[str, list[str]]) -> list[str]:
    tables = [_table(name, f"test/{name}", *SCORING[name]) for name in SKILLS]
    tables += [_table(dev_suite(name), f"dev/{name}", "likelihood", 1) for name in SKILLS]
    tables += [_table(name, f"guard/{name}", "choice", 1) + "guard = true\n" for name in GUARDS]
    if f"test/{SVAMP}" in files:
        tables.append(_table(SVAMP, f"test/{SVAMP}", *SCORING["reasoning"]))
    return tables


def _table(name: str, file: str, scorer: str, tokens: int) -> str:
    return f'\n[suites.{name}]\nfile = "{file}.jsonl"\nscorer = "{scorer}"\nmax_tokens = {tokens}\n'


def _files(skills: dict[str, Skill], plan: Plan, data: Path) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name, skill in skills.items():
        files |= {f"first/{name}": _lines(skill.first), f"dev/{name}": _lines(skill.dev)}
        files[f"test/{name}"] = _lines(skill.test)
        if skill.later:
            files |= {f"added/{name}": _lines(skill.later), f"grown/{name}": _lines([*skill.first, *skill.later])}
    gathered: list[str] = []
    for point, stage in zip(POINTS, STAGES, strict=True):
        gathered += files[f"{'added' if stage.is_update else 'first'}/{stage.skill}"]
        files[f"joint/{point}"] = list(gathered)
    if plan.svamp:
        every = read_skills(data, replace(plan.cut, test=plan.svamp))["reasoning"].test
        files[f"test/{SVAMP}"] = _lines(every)
    return files


def _lines(rows: Sequence[Row]) -> list[str]:
    return [row.line() for row in rows]


def _sampled(path: Path, count: int) -> list[str]:
    lines = path.read_text("utf-8").splitlines()
    return random.Random(path.name).sample(lines, min(count, len(lines)))
