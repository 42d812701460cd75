"""Training speed on a CPU: lamina beside TRL on the same rows, and both beside what the machine's matrix units allow.

    python bench/train_speed.py [--json] [--data ../shared/data] [--rounds 3] [--no-peers]

Every measurement is a process of its own; the peers take turns with lamina, round after round, and each figure is the
median of its rounds. What grows with row length and batch is measured once, as the median of a process's steps, and
drawn beside what the FLOPs say. TRL lives in an environment of its own (``build/peers``), made on first use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from agreement import compare_losses
from matplotlib.figure import Figure
from report import publish
from rich.console import Console
from rich.table import Table

from lamina.config import BaseSettings
from lamina.lora.surgery import linear_paths
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "speed"))

from ours import pair_rows  # noqa: E402

TRL = ("bf16", "bf16+packing", "fp32+packing")
RANK = 16
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 2, 4, 8, 16, 32)
BATCH_LENGTH = 256
PLOT = HERE.parent / "docs" / "training-growth.png"
_PROBE_TOKENS = 2048


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-peers", action="store_true", help="measure lamina alone")
    parser.add_argument("--json", action="store_true", help="only the JSON line, no table")
    options = parser.parse_args()
    pairs = options.data / "gsm8k" / "train.jsonl"
    base = resolve_base(BaseSettings(), Quiet())
    python = None if options.no_peers else _peer_python()
    runs: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for name, command in _contestants(pairs, base.folder, python).items():
            runs.setdefault(name, []).append(_run(command))
    for name, command in _growth(pairs).items():
        runs[name] = [_run(command)]
    losses = {"loss_delta_vs_peft": None} if options.no_peers else compare_losses(pairs)
    figures = _summarise(runs, load_base(base), pairs) | losses
    _draw(figures)
    if not options.json:
        _print_table(runs)
    publish("train_speed", figures)


def _contestants(pairs: Path, base: Path, python: Path | None) -> dict[str, list[str]]:
    ours = [sys.executable, str(HERE / "speed" / "ours.py"), str(pairs)]
    found = {
        "lamina": [*ours, "--batch-rows", "8", "--steps", "6"],
        "lamina, 8 frozen layers": [*ours, "--batch-rows", "8", "--steps", "6", "--frozen", "8"],
        "lamina, 8,192 tokens a step": [*ours, "--batch-rows", "38", "--steps", "3"],
    }
    if python is not None:
        peer = [str(python), str(HERE / "speed" / "trl_peer.py"), str(pairs), str(base)]
        found |= {f"TRL {setting}": [*peer, setting, "--steps", "2"] for setting in TRL}
    return found


def _growth(pairs: Path) -> dict[str, list[str]]:
    ours = [sys.executable, str(HERE / "speed" / "ours.py"), str(pairs), "--length"]
    found = {}
    for length in LENGTHS:
        rows = str(max(1, _PROBE_TOKENS // length))
        found[f"lamina, rows of {length:,}"] = [
            *ours,
            str(length),
            "--batch-rows",
            rows,
            "--steps",
            "3" if length < 4096 else "2",
        ]
    for batch in BATCHES:
        found[f"lamina, {batch} rows of {BATCH_LENGTH}"] = [
            *ours,
            str(BATCH_LENGTH),
            "--batch-rows",
            str(batch),
            "--steps",
            "3",
        ]
    return found


def _run(command: list[str]) -> dict[str, Any]:
    if command[1].endswith("ours.py"):
        command = [*command, "--started", str(time.time())]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _summarise(runs: dict[str, list[dict[str, Any]]], base: LoadedBase, pairs: Path) -> dict[str, Any]:
    def median(name: str, key: str) -> float:
        return statistics.median(run[key] for run in runs[name])

    gemm = _gemm_flops_per_s(base)
    rate = median("lamina", "tokens_per_s")
    rows = pair_rows(base, pairs, 48)
    trained = sum(row.trained_count for row in rows) / sum(len(row.ids) for row in rows)
    flops = _flops_per_token(base, [len(row.ids) for row in rows], trained_share=trained)
    peers = {name: median(name, "tokens_per_s") for name in runs if name.startswith("TRL")}
    best = max(peers.values()) if peers else None
    return {
        "tokens_per_s": rate,
        "trl_best_tokens_per_s": best,
        "ratio_vs_trl": None if best is None else rate / best,
        "trl": peers,
        "trl_peak_bytes": {name: median(name, "peak_bytes") for name in peers},
        "flops_per_token": flops,
        "roofline_share": rate * flops / gemm,
        "gemm_tflops": gemm / 1e12,
        "peak_bytes": median("lamina, 8,192 tokens a step", "peak_bytes"),
        "frozen8_step_ratio": median("lamina, 8 frozen layers", "step_s") / median("lamina", "step_s"),
        "first_step_s": median("lamina", "ready_s"),
        "first_step_done_s": median("lamina", "first_step_s"),
        "by_length": {
            str(length): {
                "seconds_per_token": 1 / median(f"lamina, rows of {length:,}", "tokens_per_s"),
                "flops_per_token": _flops_per_token(base, [length], trained_share=0.5),
            }
            for length in LENGTHS
        },
        "seconds_per_token_by_batch": {
            str(batch): 1 / median(f"lamina, {batch} rows of {BATCH_LENGTH}", "tokens_per_s") for batch in BATCHES
        },
        "gpu": "not run: this machine has none" if not torch.cuda.is_available() else "not part of this script yet",
    }


def _flops_per_token(base: LoadedBase, lengths: Sequence[int], *, trained_share: float) -> float:
    """Return the FLOPs that LoRA needs per token of such rows: the head on trained tokens only, no frozen gradients.

    What rows share is counted for each of them, as if it were computed every time.
    """
    tokens = sum(lengths)
    shapes = [base.model.get_submodule(path).weight.shape for path in linear_paths(base.model)]
    frozen = sum(4 * d_out * d_in for d_out, d_in in shapes)
    trained = sum(6 * RANK * (d_out + d_in) for d_out, d_in in shapes)
    head = 4 * base.head.weight.numel() * trained_share
    config = base.model.config
    width = config.num_attention_heads * config.head_dim
    # Two products forward and four backward over the causal half of each row's square.
    attention = 6 * width * config.num_hidden_layers * sum(length**2 for length in lengths) / tokens
    return float(frozen + trained + head + attention)


def _gemm_flops_per_s(base: LoadedBase) -> float:
    """Return the rate at which this machine multiplies the base's own matrices, forward and backward."""
    flops, seconds = 0.0, 0.0
    for path in linear_paths(base.model)[:7]:
        weight = base.model.get_submodule(path).weight.detach()
        x = torch.randn(_PROBE_TOKENS, weight.shape[1]).to(weight.dtype)
        g = torch.randn(_PROBE_TOKENS, weight.shape[0]).to(weight.dtype)
        times = []
        for _ in range(12):
            started = time.perf_counter()
            x @ weight.t(), g @ weight
            times.append(time.perf_counter() - started)
        seconds += statistics.median(times)
        flops += 4 * _PROBE_TOKENS * weight.numel()
    return flops / seconds


def _draw(figures: dict[str, Any]) -> None:
    """Draw the cost of a token against row length and batch, beside what the FLOPs say."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    by_length, by_batch = figure.subplots(1, 2)
    costs = [figures["by_length"][str(length)] for length in LENGTHS]
    seconds = [1e3 * cost["seconds_per_token"] for cost in costs]
    said = [seconds[0] * cost["flops_per_token"] / costs[0]["flops_per_token"] for cost in costs]
    by_length.plot(LENGTHS, seconds, "o-", color="#0072b2", label="measured")
    by_length.plot(LENGTHS, said, "--", color="#d55e00", label="FLOPs, from the first point")
    by_length.set(xscale="log", xlabel="tokens in a row", ylabel="ms per token", ylim=(0, None))
    by_length.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS], minor=False)
    by_length.legend(frameon=False)
    of_batch = [1e3 * figures["seconds_per_token_by_batch"][str(batch)] for batch in BATCHES]
    by_batch.plot(BATCHES, of_batch, "o-", color="#0072b2")
    by_batch.set(xscale="log", xlabel=f"rows of {BATCH_LENGTH} tokens in a step", ylim=(0, None))
    by_batch.set_xticks(BATCHES, list(map(str, BATCHES)), minor=False)
    figure.savefig(PLOT, dpi=150)


def _peer_python() -> Path:
    root = HERE.parent
    folder = root / "build" / "peers"
    if not (folder / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages = ["torch", "transformers", "trl==1.16.0", "peft", "datasets", "accelerate"]
        pip = [folder / "bin" / "pip", "install", "-q", "-c", root / "constraints.txt", *packages]
        subprocess.run(pip, check=True)
    return folder / "bin" / "python"


def _print_table(runs: dict[str, list[dict[str, Any]]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("setting", "tokens/s", "s/step", "peak GB"):
        table.add_column(column, justify="left" if column == "setting" else "right")
    for name, results in runs.items():
        rate, step, peak = (
            statistics.median(result[key] for result in results) for key in ("tokens_per_s", "step_s", "peak_bytes")
        )
        table.add_row(name, f"{rate:,.0f}", f"{step:.2f}", f"{peak / 1e9:.1f}")
    Console(stderr=True).print(table)


if __name__ == "__main__":
    main()
