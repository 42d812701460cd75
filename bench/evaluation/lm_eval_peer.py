"""lamina's choice scorer beside lm-evaluation-harness's HF backend: same items, decisions compared, items per second.

    python bench/evaluation/lm_eval_peer.py SIDE TASK --data ../shared/data [--dtype D] [--batch N] [--items N]

runs one side in a process of its own and prints one JSON line. ``measure`` runs all sides and compares them. What is
timed is the same on both sides: from text to log-probabilities, tokenising included, loading and reading files not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TASKS = {"arc_easy": ("acc", "{{query}}\nAnswer:"), "piqa": ("acc_norm", "{{query}}Answer:")}
# Published for SmolLM2-135M-Instruct in full precision, 0-shot, with lm-evaluation-harness.
PUBLISHED = {"arc_easy": 54.12, "piqa": 66.92}
PEER_SETTINGS = (("bfloat16", 4), ("bfloat16", 8), ("bfloat16", 16), ("float32", 8))
_WARM = 16


def measure(data: Path, *, items: int | None, timed: int) -> dict[str, Any]:
    """Return disagreements on ``items`` of each task (None: all), and items/s on ``timed`` of them.

    Decisions are compared with the peer in float32, which is what it does with this base unless told otherwise. Rates
    are compared with the peer's best of ``PEER_SETTINGS``, whatever its precision.
    """
    found: dict[str, Any] = {"lm_eval_items": 0, "lm_eval_disagreements": 0, "tasks": {}}
    found |= measure_rates(data, timed)
    for task, (metric, _) in TASKS.items():
        ours = run_side("lamina", task, data, items=items)
        peer = run_side("peer", task, data, items=items, dtype="float32", batch=8)
        found["tasks"][task] = compare(ours, peer, metric) | {"published": PUBLISHED[task]}
        found["lm_eval_items"] += len(ours["values"])
        found["lm_eval_disagreements"] += len(found["tasks"][task]["disagreements"])
    return found


def measure_rates(data: Path, timed: int) -> dict[str, Any]:
    """Return items/s of both sides over ``timed`` items of each task, every setting in a process of its own."""
    rates: dict[str, float] = {}
    sides = [("lamina", "", 0), *(("peer", dtype, batch) for dtype, batch in PEER_SETTINGS)]
    for side, dtype, batch in sides:
        runs = [run_side(side, task, data, items=timed, dtype=dtype, batch=batch) for task in TASKS]
        name = side if side == "lamina" else f"{dtype}, batch {batch}"
        rates[name] = len(runs) * timed / sum(run["seconds"] for run in runs)
    ours = rates.pop("lamina")
    best = max(rates, key=lambda name: rates[name])
    exact = max(rate for name, rate in rates.items() if name.startswith("float32"))
    return {
        "items_per_s": ours,
        "peer_items_per_s": rates,
        "peer_best": best,
        "items_per_s_ratio": ours / rates[best],
        "items_per_s_ratio_float32": ours / exact,
    }


def compare(ours: dict[str, Any], peer: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return accuracies of both sides, and each item that they decide differently by ``metric``, with its margin."""
    differing = []
    for place, (own, other) in enumerate(zip(ours["values"], peer[metric], strict=True)):
        if own != other:
            weights = sorted(peer["weights"][metric][place], reverse=True)
            differing.append({"item": place, "peer_margin": weights[0] - weights[1]})
    size = len(peer[metric])
    return {
        "items": size,
        "notes": ours["notes"],
        metric: {"lamina": 100 * sum(ours["values"]) / size, "peer": 100 * sum(peer[metric]) / size},
        "disagreements": differing,
    }


def run_side(
    side: str, task: str, data: Path, *, items: int | None = None, dtype: str = "", batch: int = 0
) -> dict[str, Any]:
    """Return what one side measured in a process of its own."""
    command = [sys.executable, __file__, side, task, "--data", str(data), "--dtype", dtype, "--batch", str(batch)]
    if items is not None:
        command += ["--items", str(items)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=("lamina", "peer"))
    parser.add_argument("task", choices=tuple(TASKS))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--items", type=int)
    options = parser.parse_args()
    rows = _rows(options.data / "regression" / f"{options.task}.jsonl", options.items)
    with contextlib.redirect_stdout(sys.stderr):
        side = _run_lamina if options.side == "lamina" else _run_peer
        result = side(options, rows)
    print(json.dumps(result))


def _rows(path: Path, count: int | None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return rows if count is None else [rows[place * len(rows) // count] for place in range(count)]


def _run_lamina(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    from lamina.config import BaseSettings, SuiteSettings
    from lamina.evaluate.run import run_suite
    from lamina.evaluate.suites import load_suite
    from lamina.model.base import load_base, resolve_base
    from lamina.records import Quiet

    base = resolve_base(BaseSettings(), Quiet())
    loaded, exact = load_base(base), load_base(base, dtype=torch.float32)
    end = "\nAnswer:" if options.task == "arc_easy" else "Answer:"
    asked = [row | {"query": row["query"] + end} for row in rows]
    suites = {}
    for name, some in (("warm", asked[:_WARM]), ("all", asked)):
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            file.write("".join(json.dumps(row) + "\n" for row in some))
            file.flush()
            settings = SuiteSettings(file=Path(file.name), scorer="choice", metric=TASKS[options.task][0])
            suites[name] = load_suite(name, settings)
    run_suite(loaded, suites["warm"], lambda amount, detail="": None, lambda: exact)
    notes: list[str] = []
    started = time.perf_counter()
    score = run_suite(loaded, suites["all"], lambda amount, detail="": notes.append(detail), lambda: exact)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "values": score.values, "notes": [note for note in notes if note]}


def _run_peer(options: argparse.Namespace, rows: list[dict[str, Any]]) -> dict[str, Any]:
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from lamina.config import BaseSettings
    from lamina.model.base import resolve_base
    from lamina.records import Quiet

    folder = str(resolve_base(BaseSettings(), Quiet()).folder)
    model = HFLM(
        pretrained=folder, dtype=options.dtype, batch_size=options.batch, device="cpu", softmax_dtype="float32"
    )
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["HF_DATASETS_CACHE"] = scratch
        file = Path(scratch) / "items.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        spec = {
            "task": f"{options.task}_local",
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": scratch},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": TASKS[options.task][1],
            "doc_to_target": "gold",
            "doc_to_choice": "choices",
            "num_fewshot": 0,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        }
        (task,) = TaskManager(include_defaults=False).load([spec])["tasks"].values()
        task.build_all_requests()
        requests = task.instances
        model.loglikelihood(requests[:_WARM], disable_tqdm=True)
        started = time.perf_counter()
        answers = model.loglikelihood(requests, disable_tqdm=True)
        seconds = time.perf_counter() - started
    return {"seconds": seconds} | _decide(rows, [answer[0] for answer in answers])


def _decide(rows: list[dict[str, Any]], log_probs: list[float]) -> dict[str, Any]:
    """Return both metrics as the harness's ``process_results`` has them, and the weights that decided."""
    rest = iter(log_probs)
    found: dict[str, Any] = {"acc": [], "acc_norm": [], "weights": {"acc": [], "acc_norm": []}}
    for row in rows:
        totals = [next(rest) for _ in row["choices"]]
        per_character = [total / len(choice) for total, choice in zip(totals, row["choices"], strict=True)]
        for metric, weights in (("acc", totals), ("acc_norm", per_character)):
            found[metric].append(float(weights.index(max(weights)) == row["gold"]))
            found["weights"][metric].append(weights)
    return found


if __name__ == "__main__":
    main()
