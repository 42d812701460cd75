"""What lamina's measurements rest on: published figures come out again, lm-evaluation-harness agrees, and how fast.

    python bench/evaluate.py [--json] [--data ../shared/data] [--items N] [--timed 128] [--no-peer]

The last line is one JSON object: the Vicuna chart's percentages and sums from GPT-4's reviews, the GSM8K extractor on
four published models' solutions, decisions that differ from lm-evaluation-harness's HF backend in float32, items per
second over the best setting of that backend, and the gate's error rates by simulation. Only the part with lm-eval
needs a model; in full it takes about half an hour on two cores, ``--items`` compares fewer.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from report import publish
from rich.console import Console
from rich.table import Table

from lamina.evaluate.scorers import Rules, find_scorer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "evaluation"))

GSM8K_MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--items", type=int, help="compare so many items of each task; all unless given")
    parser.add_argument("--timed", type=int, default=128, help="time so many items of each task")
    parser.add_argument("--no-peer", action="store_true", help="leave lm-evaluation-harness out")
    parser.add_argument("--json", action="store_true", help="only the JSON line, no table")
    options = parser.parse_args()
    data = options.data.resolve()
    figures: dict[str, Any] = {"gsm8k_extractor": score_gsm8k(data)}
    figures |= importlib.import_module("reviews").measure(data)
    figures |= importlib.import_module("calibration").measure()
    if not options.no_peer:
        peer = importlib.import_module("lm_eval_peer")
        figures |= peer.measure(data, items=options.items, timed=options.timed)
    if not options.json:
        _print_table(figures)
    publish("evaluate", figures)


def score_gsm8k(data: Path) -> dict[str, float]:
    """Return the percentage that the ``number`` scorer gives each of the four models published with GSM8K."""
    score = find_scorer("number").score
    assert score is not None
    path = data / "gsm8k" / "example_model_solutions.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rules = Rules()
    return {
        name: round(100 * sum(score(row[name]["solution"], row["ground_truth"], rules) for row in rows) / len(rows), 2)
        for name in GSM8K_MODELS
    }


def _print_table(figures: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("figure", "value"):
        table.add_column(column)
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}" if isinstance(value, float) else str(value))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
