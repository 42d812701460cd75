"""Does it help to choose layers for each request? The sum of all layers against a router, on two real stacks.

    python bench/route.py [prompts] [conflict] [four] [--data ../shared/data] [--work build/route] [--rows 60] [--json]

    prompts   no layer at all: how well the prompts of four skills are told apart, and by what
    conflict  two skills that want different answers to the same questions, trained apart (conflict.py)
    four      four skills trained one on top of the other (four_skills.py)

Each stack is an ordinary lamina project under ``--work`` and is kept: a second run trains nothing and scores nothing
twice. The router is fitted on rows the layers were trained on, its limits and layers are chosen on held-out rows, and
the suites are scored once, at the end. ``strangers`` are the demo's general questions, which no skill should take.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from conflict import open_conflict
from four_skills import SKILLS, open_rows, open_stack
from report import publish

from lamina.data.read import read_records, read_rows
from lamina.demo.files import data_path
from lamina.ops.project import Project
from lamina.ops.routed import Routed, route
from lamina.ops.router import points_of
from lamina.records import Message
from lamina.route.classifier import Points, fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/route"))
    parser.add_argument("--rows", type=int, default=60, help="training rows of each skill")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line on stdout")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rows_per_skill": options.rows}
    for name in options.parts:
        figures[name] = PARTS[name](options.work, options.data, options.rows)
        if not options.json:
            print(name, json.dumps(figures[name]), flush=True)
    publish("route", figures)


def prompts(work: Path, data: Path, rows: int) -> dict[str, Any]:
    """Return the share of test prompts whose skill is found: four skills, by what a prompt and a skill are taken to be.

    ``centroid`` is the skill of the nearest mean by cosine; ``gaussian`` is what lamina does.
    """
    project = open_rows(work / "four", data)
    skills = [name for name in SKILLS if (work / "four" / f"{name}_train.jsonl").exists()]
    train, owners = _read(project, skills, "train", rows)
    test, wanted = _read(project, skills, "test", rows)
    started = time.perf_counter()
    classifier = fit(train, owners, len(skills))
    seconds = time.perf_counter() - started
    means = classifier.means / np.linalg.norm(classifier.means, axis=1, keepdims=True)
    return {
        "skills": skills,
        "train_rows": len(train),
        "test_rows": len(test),
        "fit_seconds": round(seconds, 3),
        "gaussian": float((classifier.probabilities(test).argmax(1) == wanted).mean()),
        "centroid": float(((test @ means.T).argmax(1) == wanted).mean()),
    }


def conflict(work: Path, data: Path, rows: int) -> dict[str, Any]:
    """Return what routing does to two skills that want different answers to the same questions."""
    project = open_conflict(work / "conflict", data, rows)
    return measure(project, route(project))


def four(work: Path, data: Path, rows: int) -> dict[str, Any]:
    """Return what routing does to four skills, each trained on top of the ones before."""
    project = open_stack(work / "four", data, rows)
    return measure(project, route(project))


PARTS = {"prompts": prompts, "conflict": conflict, "four": four}


def measure(project: Project, found: Routed) -> dict[str, Any]:
    """Return the router's figures on held-out rows, suites and strangers."""
    trained = found.trained
    return {
        "seconds": round(trained.seconds, 2),
        "train_rows": trained.train_rows,
        "accuracy": trained.accuracy,
        "confusion": trained.confusion,
        "choices": {
            choice.route.name: {"choice": choice.route.choice, "losses": choice.losses, "p_value": choice.p_value}
            for choice in trained.choices
        },
        "suites": {suite.suite: asdict(suite) for suite in found.suites},
        "strangers_taken": strangers_taken(project, found),
        "helps": found.helps,
        "verdict": found.verdict,
    }


def strangers_taken(project: Project, found: Routed) -> float:
    """Return the share of the demo's general questions that the router gives to a skill."""
    asked = [str(record["query"]) for _, record in read_records(data_path("general.jsonl")).items]
    points = points_of(project, [[Message("user", question)] for question in asked])
    routes = found.trained.router.routes(points)
    return sum(route.skill is not None for route in routes) / len(routes)


def _read(project: Project, skills: Sequence[str], part: str, count: int) -> tuple[Points, list[int]]:
    asked, owners = [], []
    for owner, name in enumerate(skills):
        rows = read_rows(project.store.project / f"{name}_{part}.jsonl").rows[:count]
        asked += [row.messages[:-1] for row in rows]
        owners += [owner] * len(rows)
    return points_of(project, asked), owners


if __name__ == "__main__":
    main()
