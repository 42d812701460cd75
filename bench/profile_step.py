"""Where a training step's time goes, under torch's profiler.

python bench/profile_step.py [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from report import publish
from torch.profiler import ProfilerActivity, profile

from lamina.config import BaseSettings, Recipe
from lamina.lora.surgery import fresh_adapter
from lamina.model.base import load_base, resolve_base
from lamina.records import Quiet
from lamina.train.loop import train_steps
from lamina.train.state import TrainState

sys.path.insert(0, str(Path(__file__).parent / "speed"))

from ours import pair_rows

# The kernels are called inside autograd's functions and have no name of their own: they are what is left of them.
GROUPS = {
    "products of projections and head": ("aten::mm", "aten::addmm"),
    "products of attention": ("aten::bmm",),
    "thin sums in place": ("aten::addmm_",),
    "kernels": ("_Run", "_RunBackward", "_LossSum", "_LastNorm", "_LastNormBackward"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    options = parser.parse_args()
    base = load_base(resolve_base(BaseSettings(), Quiet()))
    rows = pair_rows(base, options.data / "gsm8k" / "train.jsonl", 64)
    state = TrainState(fresh_adapter(base.model, 16, seed=0), base.device)
    steps = train_steps(base, state, rows, Recipe(batch_rows=8))
    for _ in range(4):
        next(steps)
    with profile(activities=[ProfilerActivity.CPU]) as measured:
        record = next(steps)
    spent = {event.key: event.self_cpu_time_total for event in measured.key_averages()}
    total = sum(spent.values())
    shares = {name: sum(spent.get(key, 0.0) for key in keys) / total for name, keys in GROUPS.items()}
    shares["the rest: copies, casts, Python"] = 1 - sum(shares.values())
    publish("profile_step", {"tokens": record.tokens, "seconds": record.elapsed_s, "shares": shares})


if __name__ == "__main__":
    main()
