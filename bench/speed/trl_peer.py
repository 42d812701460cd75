"""TRL's side of the speed bench: SFTTrainer on the same rows, rank, maps and loss mask."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from common import ALPHA, LEARNING_RATE, MAX_LENGTH, RANK, read_pairs, report
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

SETTINGS = {
    "fp32": {"dtype": torch.float32, "bf16": False, "packing": False},
    "bf16": {"dtype": torch.bfloat16, "bf16": True, "packing": False},
    "bf16+packing": {"dtype": torch.bfloat16, "bf16": True, "packing": True},
    "fp32+packing": {"dtype": torch.float32, "bf16": False, "packing": True},
}


class TimedTrainer(SFTTrainer):  # type: ignore[misc]
    """An SFTTrainer that knows how many real tokens each step had and how long it took."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.tokens: list[int] = []
        self.starts: list[float] = []

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        """Count the step's real tokens, note when it starts, and train."""
        mask = inputs.get("attention_mask")
        self.tokens.append(int(mask.sum()) if mask is not None else inputs["input_ids"].numel())
        self.starts.append(time.perf_counter())
        return super().training_step(model, inputs, *rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("setting", choices=SETTINGS)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    setting = SETTINGS[options.setting]
    rows = [
        {"prompt": [{"role": "user", "content": q}], "completion": [{"role": "assistant", "content": a}]}
        for q, a in read_pairs(options.pairs)
    ]
    # A packed batch of two full blocks holds about as many real tokens as eight rows.
    batch = 2 if setting["packing"] else options.batch_rows
    trainer = TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.base, dtype=setting["dtype"]),
        processing_class=AutoTokenizer.from_pretrained(options.base),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        args=SFTConfig(
            output_dir="/tmp/trl-speed",
            per_device_train_batch_size=batch,
            max_steps=options.steps + 1,
            learning_rate=LEARNING_RATE,
            max_length=MAX_LENGTH,
            packing=setting["packing"],
            bf16=setting["bf16"],
            use_cpu=True,
            completion_only_loss=True,
            gradient_checkpointing=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    trainer.train()
    # From one step's start to the next: forward, backward, optimiser and data, as a user waits for them.
    seconds = [later - earlier for earlier, later in zip(trainer.starts, trainer.starts[1:], strict=False)]
    report(trainer.tokens[: len(seconds)], seconds)


if __name__ == "__main__":
    main()
