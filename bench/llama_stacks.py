"""What stacks cost in the llama.cpp engine: layers on top, a change of stack, a new layer, a long answer ahead.

python bench/llama_stacks.py [--threads N] [--json]

``switch_ms`` is what one-token answers take longer when two stacks alternate than when one stack is asked again, both
with their prompt in the cache. ``wait_ms`` is until the first token of a stack while another one writes 200.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

import torch
from laws import draw_layers
from report import publish

from lamina.config import BaseSettings
from lamina.data.render import Renderer
from lamina.model.base import load_base, resolve_base
from lamina.ops.llama import make_llama_engine
from lamina.records import Message, Quiet
from lamina.serve.engine import Engine, Generation, Layers, Sampling

TOKENS = 64
ROUNDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="taken for all benches alike; the line is always printed")
    options = parser.parse_args()
    publish("llama_stacks", asyncio.run(measure(options.threads)))


async def measure(threads: int) -> dict[str, Any]:
    base = resolve_base(BaseSettings(), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    prompt = Renderer(loaded.tokenizer, base.template).prompt([Message("user", "Tell me about the sea.")])
    adapters = {str(place): layer for place, layer in enumerate(draw_layers(loaded.model, 5, seed=3).adapters)}
    stop_ids = loaded.stop_ids
    del loaded
    engine = make_llama_engine(
        base, Quiet(), adapter=adapters.__getitem__, known=lambda: ["0", "1", "2", "3"], threads=threads
    )
    one, other = (("0", 1.0),), (("1", 1.0),)
    four = tuple((str(place), 0.25) for place in range(4))
    ask = Asker(engine, prompt, stop_ids)
    await engine.start()
    try:
        figures: dict[str, Any] = {"threads": threads}
        rates = {name: [] for name in ("none", "one", "four")}
        for _ in range(3):
            for name, layers in (("none", ()), ("one", one), ("four", four)):
                rates[name].append(await ask.rate(layers))
        none, with_one, with_four = (statistics.median(rates[name]) for name in ("none", "one", "four"))
        figures |= {"tokens_per_s": none, "stack1_vs_none": with_one / none, "stack4_vs_none": with_four / none}
        same = [await ask.first_ms(one) for _ in range(ROUNDS)]
        changed = [await ask.first_ms(layers) for _ in range(ROUNDS) for layers in (other, one)]
        figures |= {"switch_ms": statistics.median(changed) - statistics.median(same[1:])}
        running = asyncio.create_task(ask.rate(one, tokens=200))
        await asyncio.sleep(0.2)
        figures["wait_ms"] = await ask.first_ms(other)
        figures["waited_for_the_end"] = running.done()
        await running
        started = time.perf_counter()
        await ask.first_ms((("4", 1.0),))
        figures["new_layer_s"] = time.perf_counter() - started
        return figures
    finally:
        await engine.stop()


class Asker:
    """Asks one engine one thing, with answers that do not end early."""

    def __init__(self, engine: Engine, prompt: list[int], stop_ids: frozenset[int]) -> None:
        self.engine, self.prompt = engine, prompt
        self.bias = tuple((token, -1e4) for token in stop_ids | {0})  # 0 ends a text in llama.cpp

    async def first_ms(self, layers: Layers) -> float:
        """Return how long an answer of one token takes."""
        started = time.perf_counter()
        await self.times(layers, 1)
        return 1000 * (time.perf_counter() - started)

    async def rate(self, layers: Layers, tokens: int = TOKENS) -> float:
        """Return tokens per second, from the first token on."""
        times = await self.times(layers, tokens)
        return (len(times) - 1) / (times[-1] - times[0])

    async def times(self, layers: Layers, tokens: int) -> list[float]:
        """Return when each token came."""
        how = Sampling(max_tokens=tokens, logit_bias=self.bias)
        request = Generation(prompt=tuple(self.prompt), layers=layers, sampling=how)
        return [time.perf_counter() async for _ in self.engine.generate(request)]


if __name__ == "__main__":
    main()
