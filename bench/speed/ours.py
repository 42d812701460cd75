"""lamina's side of the speed bench: some training steps in a process of their own, measured from inside."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import torch
from common import ALPHA, LEARNING_RATE, MAX_LENGTH, RANK, largest_memory, read_pairs, report

from lamina.config import BaseSettings, Recipe
from lamina.data.render import Renderer
from lamina.lora.adapter import Factors
from lamina.lora.surgery import attach, fresh_adapter
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Conversation, Message, Quiet, TokenRow
from lamina.train.loop import train_steps
from lamina.train.state import TrainState


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--frozen", type=int, default=0, help="frozen layers below the trained one")
    parser.add_argument("--length", type=int, default=0, help="rows of this many random tokens instead of the pairs")
    parser.add_argument("--quantise", choices=("none", "int8", "nf4"), default="none", help="how the base is held")
    parser.add_argument("--started", type=float, default=0.0, help="when the process was started, in seconds")
    options = parser.parse_args()
    base = load_base(resolve_base(BaseSettings(quantise=options.quantise), Quiet()))
    held = {"weight_bytes": weight_bytes(base), "loaded_bytes": largest_memory()}
    count = options.batch_rows * options.steps
    rows = random_rows(options.length, count) if options.length else pair_rows(base, options.pairs, count)
    attach(base.model, [random_layer(base, seed) for seed in range(options.frozen)])
    recipe = Recipe(rank=RANK, alpha=ALPHA, learning_rate=LEARNING_RATE, batch_rows=options.batch_rows)
    state = TrainState(fresh_adapter(base.model, RANK, seed=0), base.device)
    tokens, seconds, losses = [], [], []
    ready_s = time.time() - options.started
    for record in train_steps(base, state, rows, recipe):
        tokens.append(record.tokens)
        seconds.append(record.elapsed_s)
        losses.append(record.loss)
    # The first step is over when its loss is known.
    timing = held | {"ready_s": ready_s, "first_step_s": ready_s + seconds[0]}
    report(tokens, seconds, **timing, tokens_per_step=sum(tokens) / len(tokens), losses=losses)


def weight_bytes(base: LoadedBase) -> int:
    """Return what the base's parameters and buffers take, those that are shared counted once."""
    tensors = [*base.model.parameters(), *base.model.buffers()]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


def pair_rows(base: LoadedBase, path: Path, count: int) -> list[TokenRow]:
    """Return the first pairs rendered as training renders them."""
    renderer = Renderer(base.tokenizer, base.template)
    return [
        renderer.row(Conversation((Message("user", question), Message("assistant", answer))), max_length=MAX_LENGTH)
        for question, answer in read_pairs(path)[:count]
    ]


def random_rows(length: int, count: int) -> list[TokenRow]:
    """Return rows of random tokens, half of them trained."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(49_000, (count, length), generator=generator).tolist()
    trained = tuple(place >= length // 2 for place in range(length))
    return [TokenRow(tuple(row), trained) for row in ids]


def random_layer(base: LoadedBase, seed: int) -> dict[str, Factors]:
    """Return a layer that changes a little everywhere."""
    generator = torch.Generator().manual_seed(seed)
    fresh = fresh_adapter(base.model, RANK, seed)
    return {
        path: Factors(pair.A, torch.randn(pair.B.shape, generator=generator) * 1e-3) for path, pair in fresh.items()
    }


if __name__ == "__main__":
    main()
