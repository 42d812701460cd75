"""What a quantised base saves and costs: memory of the weights and of training, and tokens per second.

    python bench/quantised.py [--data ../shared/data] [--rounds 2] [--steps 4]

Every measurement is a process of its own; the schemes take turns, round after round, and each figure is the median of
its rounds. ``loss`` is the first step's, before anything is learnt: what quantisation alone does to the base.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from report import publish
from rich.console import Console
from rich.table import Table

OURS = Path(__file__).parent / "speed" / "ours.py"
SCHEMES = ("none", "int8", "nf4")
KEYS = ("weight_bytes", "loaded_bytes", "peak_bytes", "tokens_per_s", "loss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    pairs = options.data / "gsm8k" / "train.jsonl"
    runs: dict[str, list[dict[str, Any]]] = {scheme: [] for scheme in SCHEMES}
    for _ in range(options.rounds):
        for scheme, found in runs.items():
            found.append(_run([str(pairs), "--steps", str(options.steps), "--quantise", scheme]))
            print(f"{scheme}: {found[-1]['tokens_per_s']:,.0f} tokens/s", file=sys.stderr, flush=True)
    figures = {
        scheme: {key: statistics.median(run[key] for run in found) for key in KEYS} for scheme, found in runs.items()
    }
    _print_table(figures)
    publish("quantised", {"rounds": options.rounds, "steps": options.steps, "schemes": figures})


def _run(arguments: list[str]) -> dict[str, Any]:
    done = subprocess.run([sys.executable, str(OURS), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result | {"loss": result["losses"][0]}


def _print_table(figures: dict[str, dict[str, float]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("base", "weights MB", "loaded MB", "peak MB", "tokens/s", "loss"):
        table.add_column(column, justify="left" if column == "base" else "right", no_wrap=True)
    for scheme, found in figures.items():
        megabytes = (f"{found[key] / 1e6:,.0f}" for key in KEYS[:3])
        table.add_row(scheme, *megabytes, f"{found['tokens_per_s']:,.0f}", f"{found['loss']:.4f}")
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
