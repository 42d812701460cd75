"""What stacks cost in the llama.cpp engine: layers on top, a change of stack, a new layer, a long answer ahead.

python bench/llama_stacks.py [--threads N] [--wide] [--json]

``--wide`` takes a base of a billion random weights, in the shape of Llama 3.2 1B with the bundled words: what layers
cost depends on how wide the base is, not on what it says. It wants 12 GB of memory and 7 GB of disk for a while.

Layers have rank 16 on every linear map. ``stack4`` is a stack that the engine knows, which it keeps as one sum;
``sum_of_4`` is one that it meets for the first time: the first answer is written with four adapters active, later ones
with their sum, which is loaded once it is asked for again. ``switch_ms`` is what one-token answers take longer when two
stacks alternate than when one stack is asked again, both with their prompt in the cache.
``wait_ms`` is until the first token of a stack while another one writes 200.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from report import publish
from transformers import LlamaConfig, LlamaForCausalLM

from lamina.config import BaseSettings
from lamina.data.render import Renderer
from lamina.lora.adapter import Factors
from lamina.lora.surgery import linear_shapes
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.ops.llama import make_llama_engine
from lamina.records import Message, Quiet
from lamina.serve.engine import Engine, Generation, Layers, Sampling

TOKENS = 64
ROUNDS = 15
RANK = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wide", action="store_true", help="a base of a billion random weights")
    parser.add_argument("--json", action="store_true", help="taken for all benches alike; the line is always printed")
    options = parser.parse_args()
    if not options.wide:
        publish("llama_stacks", asyncio.run(measure(BaseSettings(), options.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = make_wide(Path(folder))
        os.environ["LAMINA_CACHE"] = folder  # the GGUF file is of no use afterwards
        publish("llama_stacks-wide", asyncio.run(measure(settings, options.threads)))


def make_wide(folder: Path) -> BaseSettings:
    """Write a random base in the shape of Llama 3.2 1B, with the bundled base's tokenizer."""
    bundled = load_base(resolve_base(BaseSettings(), Quiet()), dtype=torch.float32)
    config = LlamaConfig(
        vocab_size=bundled.model.config.vocab_size,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=bundled.model.config.bos_token_id,
        eos_token_id=bundled.model.config.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "wide")
    bundled.tokenizer.save_pretrained(folder / "wide")
    template = folder / "template.jinja"
    template.write_text("{% for message in messages %}{{ message.content }}{% endfor %}", "utf-8")
    return BaseSettings(model=str(folder / "wide"), template=template)


async def measure(settings: BaseSettings, threads: int) -> dict[str, Any]:
    base = resolve_base(settings, Quiet())
    loaded = load_base(base, dtype=torch.float32)
    prompt = Renderer(loaded.tokenizer, base.template).prompt([Message("user", "Tell me about the sea.")])
    adapters = {str(place): layer for place, layer in enumerate(_layers(loaded, 5))}
    stop_ids = loaded.stop_ids
    del loaded
    four = tuple((str(place), 0.25) for place in range(4))
    apart = tuple((str(place), 0.2) for place in range(4))
    engine = make_llama_engine(base, Quiet(), adapter=adapters.__getitem__, known=lambda: [four], threads=threads)
    one, other = (("0", 1.0),), (("1", 1.0),)
    ask = Asker(engine, prompt, stop_ids)
    await engine.start()
    try:
        figures: dict[str, Any] = {"threads": threads}
        stacks: dict[str, Layers] = {"none": (), "stack1": one, "stack4": four, "sum_of_4": apart}
        rates: dict[str, list[float]] = {name: [] for name in stacks}
        for _ in range(5):
            for name, layers in stacks.items():
                rates[name].append(await ask.rate(layers))
        figures["tokens_per_s"] = none = statistics.median(rates["none"])
        figures |= {f"{name}_vs_none": statistics.median(rates[name]) / none for name in stacks if name != "none"}
        figures["sum_of_4_first_vs_none"] = rates["sum_of_4"][0] / none
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


def _layers(loaded: LoadedBase, count: int) -> list[dict[str, Factors]]:
    """Return random layers as `lamina train` shapes them: rank 16 on every linear map."""
    draw = torch.Generator().manual_seed(3)
    shapes = linear_shapes(loaded.model)
    return [
        {
            path: Factors(
                torch.randn(RANK, d_in, generator=draw) / d_in**0.5, 0.02 * torch.randn(d_out, RANK, generator=draw)
            )
            for path, (d_out, d_in) in shapes.items()
        }
        for _ in range(count)
    ]


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
