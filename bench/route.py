"""Does it help to choose layers for each request? The sum of all layers against a router, on two real stacks.

    python bench/route.py [--data ../shared/data] [--work build/route] [--rows 72] [--json]

    four      four skills trained one on top of the other (four_skills.py)
    conflict  two skills that want different answers to the same questions, trained apart (conflict.py)

Each stack is an ordinary lamina project under ``--work`` and is kept: a second run trains nothing and scores nothing
twice. The router is fitted on rows the layers were trained on, its limits and layers are chosen on held-out rows, and
the suites are scored once, at the end. ``strangers`` are the demo's general questions, which no skill should take.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conflict import open_conflict
from four_skills import open_stack
from report import publish

from lamina.data.read import read_records
from lamina.demo.files import data_path
from lamina.ops.project import Project
from lamina.ops.routed import Routed, route
from lamina.ops.router import points_of
from lamina.records import Message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/route"))
    parser.add_argument("--rows", type=int, default=72, help="training rows of each skill")
    parser.add_argument("--json", action="store_true", help="print nothing but the last line on stdout")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rows_per_skill": options.rows}
    for name, opened in (("conflict", open_conflict), ("four", open_stack)):
        project = opened(options.work / name, options.data, options.rows)
        found = route(project)
        figures[name] = measure(project, found)
        if not options.json:
            print(name, json.dumps(figures[name]), flush=True)
    publish("route", figures)


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


if __name__ == "__main__":
    main()
