"""The stack's algebra and its store, measured: exactness, folding, commands on 100 layers, squashing a real stack.

    python bench/stack.py [--json] [--data ../shared/data] [--work build/bench/stack]

concat_rel_error     the concatenated layer beside the sum of 1 to 32 layers, one by one: logits in float32, the worst
fold_rel_error_8     eight layers, each as large as the trained ones, folded into bfloat16: error of what arrived;
                     beside it folding one after another, and the bound: the exact sum, rounded once
log_100_s ...        whole commands on a stack of 100 layers, the median of nine runs
peft_logit_error     PEFT with the exported squash of the trained stack beside lamina's stack, float32: the largest
squash_quality       a stack of four trained skills squashed to smaller ranks, scored (see four_skills.py)

What is trained is kept under ``--work``.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from four_skills import draw, open_stack, squash_quality, stack_adapters
from laws import draw_layers, error, summed_logits
from report import publish
from torch import Tensor
from transformers import AutoModelForCausalLM

from lamina.cli.progress import TerminalProgress
from lamina.config import BaseSettings
from lamina.infer.drift import look
from lamina.lora.adapter import Adapter, Factors, combine
from lamina.lora.compare import delta_norm
from lamina.lora.fold import fold
from lamina.lora.surgery import attach, detach, linear_weights
from lamina.model.base import LoadedBase, load_base
from lamina.ops.project import Project, init_project, open_project
from lamina.records import TokenRow
from lamina.refs import Digest
from lamina.stack.layers import stack_digest, write_layer, write_stack
from lamina.stack.lineage import get_ref, set_ref
from lamina.stack.manifest import DATASET_TYPE, ROWS_TYPE, WEIGHTS_TYPE, Cost, DataSource, LayerConfig, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.store import Store

PROMPTS = ("The capital of France is Paris, and the river there", "Turn on the lamp in the kitchen, please.")
COUNTS = (1, 2, 4, 8, 16, 32)
LAYERS = 100
RUNS = 9
PLOT = Path(__file__).parents[1] / "docs" / "squash.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("build/bench/stack"))
    options = parser.parse_args()
    figures = measure_commands(options.work / "hundred")
    project = open_stack(options.work / "skills", options.data)
    quality = squash_quality(project)
    draw(quality, PLOT)
    base = load_base(project.base, dtype=torch.float32)
    figures |= {"concat_rel_error": measure_concat(base)}
    figures |= measure_fold(base, stack_adapters(project))
    figures |= {"peft_logit_error": measure_peft(project, base)}
    figures["layers"] = [entry.name for entry in project.stack().layers]
    figures["squash_quality"] = {rank: each.scores for rank, each in quality.items()}
    figures["squash_rel_error"] = {rank: each.relative_error for rank, each in quality.items()}
    figures["squash_heldout_loss"] = {rank: each.heldout_loss for rank, each in quality.items()}
    if not options.json:
        for rank, each in quality.items():
            scores = "  ".join(f"{name} {score:.1%}" for name, score in each.scores.items())
            print(f"rank {rank:3}  error {each.relative_error:.1%}  {scores}")
    publish("stack", figures)


@torch.no_grad()
def measure_concat(base: LoadedBase) -> float:
    """Return the worst relative error of the logits, from the sum of layers added up one by one by plain hooks."""
    worst = 0.0
    for count in COUNTS:
        layers = draw_layers(base.model, count, seed=count, size=0.02)
        for prompt in PROMPTS:
            ids = base.tokenizer.encode(prompt)
            wanted = summed_logits(base.model, torch.tensor([ids], device=base.device), layers)[0, :-1]
            worst = max(worst, error(_logits(base, ids, [combine(layers.adapters, layers.scales)]), wanted))
    return worst


def _logits(base: LoadedBase, ids: Sequence[int], adapters: Sequence[Adapter]) -> Tensor:
    """Return the logits for every token but the first, as lamina serves them."""
    attach(base.model, adapters)
    row = TokenRow(tuple(ids), (False, *[True] * (len(ids) - 1)))
    found = base.head.logits(look(base, [row]).states)
    detach(base.model)
    return found


@torch.no_grad()
def measure_fold(base: LoadedBase, trained: Sequence[Adapter]) -> dict[str, float]:
    """Return the relative errors of eight layers' additions after folding into a bfloat16 base."""
    weights = {path: weight.to(torch.bfloat16) for path, weight in linear_weights(base.model).items()}
    layers = _like_trained(weights, trained, 8)
    ours, _ = fold(weights, layers, [1.0] * 8, torch.bfloat16)
    lost = dict.fromkeys(("ours", "sequential", "bound"), 0.0)
    whole = 0.0
    for path, weight in weights.items():
        deltas = [layer[path].B.double() @ layer[path].A.double() for layer in layers if path in layer]
        exact = sum(deltas, start=torch.zeros_like(weight, dtype=torch.float64))
        stepped = weight
        for delta in deltas:
            stepped = (stepped.double() + delta).to(torch.bfloat16)
        results = {"ours": ours[path], "sequential": stepped, "bound": (weight.double() + exact).to(torch.bfloat16)}
        for name, folded in results.items():
            lost[name] += float((folded.double() - weight.double() - exact).square().sum())
        whole += float(exact.square().sum())
    size = sum(_share(weights, layer) for layer in trained) / len(trained)
    errors = {name: math.sqrt(each / whole) for name, each in lost.items()}
    return {
        "fold_rel_error_8": errors["ours"],
        "fold_sequential_rel_error_8": errors["sequential"],
        "fold_bound_rel_error_8": errors["bound"],
        "trained_layer_size": size,
    }


def _like_trained(weights: dict[str, Tensor], trained: Sequence[Adapter], count: int) -> list[dict[str, Factors]]:
    """Return random layers, each map as large as in the trained ones by turns."""
    draws = torch.Generator().manual_seed(0)
    layers: list[dict[str, Factors]] = []
    for place in range(count):
        like = trained[place % len(trained)]
        layer = {}
        for path, factors in like.items():
            A = torch.randn(factors.A.shape, generator=draws)
            B = torch.randn(factors.B.shape, generator=draws)
            layer[path] = Factors(A, B * (delta_norm(factors) / delta_norm(Factors(A, B))))
        layers.append(layer)
    return layers


def _share(weights: dict[str, Tensor], layer: Adapter) -> float:
    """Return a layer's norm as a share of the norm of the weights it adapts."""
    own = sum(delta_norm(factors) ** 2 for factors in layer.values())
    return math.sqrt(own / sum(float(weights[path].float().square().sum()) for path in layer))


@torch.no_grad()
def measure_peft(project: Project, base: LoadedBase) -> float:
    """Return the largest difference of logits between PEFT with the exported squash and lamina's stack."""
    from peft import PeftModel

    from lamina.export.peft import maps_of, write_peft

    whole = combine(stack_adapters(project), [entry.scale for entry in project.stack().layers])
    with tempfile.TemporaryDirectory() as folder:
        detach(base.model)
        write_peft(whole, Path(folder), base=project.base.pin.name, maps=maps_of(base.model))
        plain = AutoModelForCausalLM.from_pretrained(project.base.folder, dtype=torch.float32).eval()
        theirs = PeftModel.from_pretrained(plain, folder).eval()
    worst = 0.0
    for prompt in PROMPTS:
        ids = base.tokenizer.encode(prompt)
        wanted = _logits(base, ids, stack_adapters(project))
        found = theirs(input_ids=torch.tensor([ids])).logits[0, :-1]
        worst = max(worst, float((found - wanted).abs().max()))
    return worst


def measure_commands(work: Path) -> dict[str, float]:
    """Return the median seconds of ``log``, ``show`` and ``drop`` on a stack of 100 layers."""
    project = _hundred(work)
    times: dict[str, list[float]] = {"log": [], "show": [], "drop": []}
    held = get_ref(project.store, "main")
    for _ in range(RUNS):
        for verb, arguments in (("log", ()), ("show", ("layer50",)), ("drop", ("layer50",))):
            times[verb].append(_time(work, verb, *arguments))
        set_ref(project.store, "main", held or "", why="measured")
    return {f"{verb}_{LAYERS}_s": round(statistics.median(each), 3) for verb, each in times.items()}


def _time(work: Path, *arguments: str) -> float:
    command = [sys.executable, "-m", "lamina.cli.main", *arguments]
    started = time.perf_counter()
    subprocess.run(command, cwd=work, check=True, capture_output=True, env=os.environ | {"COLUMNS": "80"})
    return time.perf_counter() - started


def _hundred(work: Path) -> Project:
    """Return a project of 100 synthetic layers, each on top of the one before, with weights of a few bytes."""
    if (work / ".lamina" / "whole").exists():
        return open_project(work, TerminalProgress())
    shutil.rmtree(work, ignore_errors=True)
    project = init_project(work, BaseSettings(), TerminalProgress())
    stack = project.stack()
    for number in range(1, LAYERS + 1):
        layer = write_layer(project.store, _synthetic(project.store, stack, f"layer{number}"))
        stack = add_layer(project.store, stack, layer)
    set_ref(project.store, "main", write_stack(project.store, stack), why="100 layers")
    (work / ".lamina" / "whole").touch()
    return project


def _synthetic(store: Store, parent: StackConfig, name: str) -> LayerConfig:
    rows = [str(Digest.of_bytes(f"{name} {row}".encode())) for row in range(50)]
    jsonl = "".join(f'{{"prompt": "{name} {row}", "completion": "{row}"}}\n' for row in range(50)).encode()
    maps = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return LayerConfig(
        name=name,
        base=parent.base,
        parent=stack_digest(parent),
        weights=store.put_bytes(f"weights of {name}".encode(), WEIGHTS_TYPE).digest,
        rank=16,
        modules=tuple(f"model.layers.{block}.{each}" for block in range(30) for each in maps),
        recipe={"rank": 16, "learning_rate": 1e-3, "epochs": 1.0, "batch_rows": 8},
        recipe_origins={"rank": "flag"},
        data=(DataSource(file=f"{name}.jsonl", digest=str(Digest.of_bytes(jsonl)), rows=50),),
        rows=store.put_bytes("\n".join(rows).encode(), ROWS_TYPE).digest,
        replay=store.put_bytes(jsonl, DATASET_TYPE).digest,
        heldout=None,
        cost=Cost(tokens=50_000, trained_tokens=9_000, seconds=90.0, steps=75),
        heldout_loss_before=2.0,
        heldout_loss_after=0.5,
        machine={"cpu": "synthetic"},
        versions={"lamina": "0"},
        created="2026-01-01T00:00:00+00:00",
    )


if __name__ == "__main__":
    main()
