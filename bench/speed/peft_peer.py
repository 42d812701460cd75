"""Held-out loss after some steps of training: lamina as it trains here, beside PEFT in float32, row for row.

Both start from the same factors and see the same rows in the same order under the same learning rates; PEFT's loop is
written out plainly (transformers' float32 model, one padded batch a step, torch.optim.AdamW). Both results are measured
on the float32 base. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from common import ALPHA, LEARNING_RATE, RANK
from ours import pair_rows
from peft import LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from lamina.config import BaseSettings, Recipe
from lamina.lora.adapter import Factors, scale_of
from lamina.lora.surgery import attach, detach, fresh_adapter, linear_paths
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, TokenRow
from lamina.train.loop import train_steps
from lamina.train.passes import mean_loss
from lamina.train.schedule import learning_rate, plan_steps
from lamina.train.state import TrainState

SCALE = scale_of(RANK, ALPHA, rslora=False)
LONGEST = 160  # a float32 step over longer rows would take PEFT minutes on two cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=24)
    options = parser.parse_args()
    found = resolve_base(BaseSettings(), Quiet())
    base = load_base(found)
    fitting = [row for row in pair_rows(base, options.pairs, 1000) if len(row.ids) <= LONGEST]
    rows, heldout = fitting[: 4 * options.steps], fitting[-48:]
    recipe = Recipe(rank=RANK, alpha=ALPHA, learning_rate=LEARNING_RATE, batch_rows=4, seed=options.seed, patience=0)
    start = fresh_adapter(base.model, RANK, options.seed)
    ours = _train_ours(base, start, rows, recipe)
    theirs = _train_peft(found.folder, start, rows, recipe)
    judge = load_base(found, dtype=torch.float32)
    losses = {}
    for name, adapter in (("lamina", ours), ("peft", theirs), ("before", None)):
        attach(judge.model, [] if adapter is None else [adapter])
        losses[name] = mean_loss(judge, heldout)
    detach(judge.model)
    print(json.dumps({"seed": options.seed, "steps": options.steps, "dtype": str(base.model.dtype), **losses}))


def _train_ours(
    base: LoadedBase, start: dict[str, Factors], rows: list[TokenRow], recipe: Recipe
) -> dict[str, Factors]:
    state = TrainState(start, base.device)
    for _ in train_steps(base, state, rows, recipe):
        pass
    return state.adapter(SCALE)


def _train_peft(folder: Path, start: dict[str, Factors], rows: list[TokenRow], recipe: Recipe) -> dict[str, Factors]:
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=linear_paths(plain))
    model = get_peft_model(plain, config)
    named = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for path, factors in start.items():
        named[_key(path, "A")].data.copy_(factors.A)
        named[_key(path, "B")].data.copy_(factors.B)
    optimiser = torch.optim.AdamW(named.values(), weight_decay=recipe.weight_decay)
    steps = plan_steps(len(rows), batch_rows=recipe.batch_rows, epochs=recipe.epochs, seed=recipe.seed)
    for number, chosen in enumerate(steps, 1):
        rate = learning_rate(
            number, len(steps), peak=recipe.learning_rate, warmup=recipe.warmup, final_rate=recipe.final_rate
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        _padded_loss(model, [rows[index] for index in chosen]).backward()
        torch.nn.utils.clip_grad_norm_(named.values(), recipe.clip)
        optimiser.step()
        optimiser.zero_grad()
    return {
        path: Factors(named[_key(path, "A")].detach().clone(), named[_key(path, "B")].detach() * SCALE)
        for path in start
    }


def _padded_loss(model: torch.nn.Module, rows: list[TokenRow]) -> torch.Tensor:
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[*row.ids] + [0] * (longest - len(row.ids)) for row in rows])
    mask = torch.tensor([[1] * len(row.ids) + [0] * (longest - len(row.ids)) for row in rows])
    labels = torch.tensor(
        [
            [token if flag else -100 for token, flag in zip(row.ids, row.trained, strict=True)]
            + [-100] * (longest - len(row.ids))
            for row in rows
        ]
    )
    logits = model(input_ids=ids, attention_mask=mask).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def _key(path: str, factor: str) -> str:
    return f"base_model.model.{path}.lora_{factor}.default.weight"


if __name__ == "__main__":
    main()
