"""How far llama.cpp's answers lie from torch's, for each way of holding the base, and how fast both write.

python bench/serve_parity.py [--prompts 200] [--tokens 24] [--kinds f16 q8_0 q4_1 q4_0] [--threads N] [--json]

Prompts are questions of the demo's files. Reference is torch in float32 on the pinned weights; torch in bfloat16 is put
beside it where this machine computes in it. KL is taken at the first positions of torch's own answers, over the 100
likeliest tokens and all others as one; a stack of two random layers is measured like the bare base.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from laws import draw_layers
from report import publish

from lamina.config import BaseSettings
from lamina.data.render import Renderer
from lamina.export.gguf import base_gguf, write_adapter_gguf
from lamina.infer.generate import greedy_answers
from lamina.lora.adapter import Adapter
from lamina.lora.surgery import attach, detach
from lamina.model.base import Base, LoadedBase, load_base, resolve_base
from lamina.ops.llama import make_llama_engine
from lamina.records import Message, Quiet
from lamina.serve.engine import Engine, Generation, Layers, Sampling
from lamina.serve.llama_look import look_ahead, opened

DEMO = Path(__file__).parents[1] / "src" / "lamina" / "demo" / "data"
POSITIONS = 8
MOST = 100
SPEED_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--kinds", nargs="+", default=["f16", "q8_0", "q4_1", "q4_0"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true", help="taken for all benches alike; the line is always printed")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    name = "serve_parity" if "f16" in options.kinds else "serve_parity_quantised"
    publish(name, asyncio.run(measure(options)))


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    base = resolve_base(BaseSettings(), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    prompts = read_prompts(Renderer(loaded.tokenizer, base.template))[: options.prompts]
    stack = draw_layers(loaded.model, 2, seed=3, size=0.1).adapters
    figures: dict[str, Any] = {"prompts": len(prompts), "tokens": options.tokens, "threads": options.threads}
    plain = Reference(loaded, prompts, (), options.tokens)
    stacked = Reference(loaded, prompts, stack, options.tokens)
    figures["stack_differs_from_base"] = 1 - share(plain.answers, stacked.answers)
    figures["transformers_tokens_per_s"] = torch_speed(loaded, prompts[0])
    bfloat16 = load_base(base, dtype=torch.bfloat16)
    figures["torch_bfloat16"] = {"greedy_equal": share(plain.answers, answers_of(bfloat16, prompts, options.tokens))}
    figures["transformers_bfloat16_tokens_per_s"] = torch_speed(bfloat16, prompts[0])
    del bfloat16
    for kind in options.kinds:
        figures[kind] = await compare(base, kind, plain, stack=(), threads=options.threads)
        print(kind, json.dumps(figures[kind]), flush=True)
    if "f16" in figures:
        figures["f16_stack"] = await compare(base, "f16", stacked, stack=stack, threads=options.threads)
        figures["parity_top1"] = figures["f16"]["top1"]
        figures["tokens_per_s"] = figures["f16"]["tokens_per_s"]
    return figures


class Reference:
    """Torch's greedy answers, and its log-probabilities at the first positions of each."""

    def __init__(self, loaded: LoadedBase, prompts: list[list[int]], stack: Sequence[Adapter], tokens: int) -> None:
        attach(loaded.model, list(stack))
        self.prompts = prompts
        self.tokens = tokens
        self.stop_id = min(loaded.stop_ids)
        self.answers = answers_of(loaded, prompts, tokens)
        self.log_probs = [log_probs(loaded, *pair) for pair in zip(prompts, self.answers, strict=True)]
        detach(loaded.model)


def answers_of(loaded: LoadedBase, prompts: list[list[int]], tokens: int) -> list[list[int]]:
    return greedy_answers(loaded, prompts, max_tokens=tokens)


@torch.no_grad()
def log_probs(loaded: LoadedBase, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return (positions, vocabulary)."""
    ids = torch.tensor([prompt + answer[: POSITIONS - 1]], device=loaded.device)
    states = loaded.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
    return torch.log_softmax(loaded.head.logits(states).float(), -1).cpu()


async def compare(
    base: Base, kind: Any, reference: Reference, *, stack: Sequence[Adapter], threads: int
) -> dict[str, float]:
    layers: Layers = tuple((str(place), 1.0) for place in range(len(stack)))
    engine = make_llama_engine(
        base,
        Quiet(),
        adapter=lambda digest: stack[int(digest)],
        known=lambda: [layers],
        weights=kind,
        threads=threads,
    )
    await engine.start()
    answers = [
        [token async for token in ids_of(engine, prompt, layers, reference.tokens)] for prompt in reference.prompts
    ]
    speed = await engine_speed(engine, reference.prompts[0], layers)
    await engine.stop()
    with tempfile.TemporaryDirectory() as folder:
        files = {digest: Path(folder) / f"{digest}.gguf" for digest, _ in layers}
        for digest, path in files.items():
            write_adapter_gguf(stack[int(digest)], base, path)
        looked = await look_at(base_gguf(base, Quiet(), weights=kind), files, reference, layers, threads)
    return {"greedy_equal": share(reference.answers, answers), **looked, "tokens_per_s": speed}


async def look_at(
    model: Path, files: dict[str, Path], reference: Reference, layers: Layers, threads: int
) -> dict[str, float]:
    divergences, same, largest = [], 0, 0.0
    async with opened(model, files, context=4096, threads=threads) as worker:
        for prompt, answer, wanted in zip(reference.prompts, reference.answers, reference.log_probs, strict=True):
            positions = range(len(prompt), len(prompt) + len(wanted))
            ids = prompt + answer[: POSITIONS - 1]
            found = await look_ahead(worker, layers, ids, positions, most=MOST, stop_id=reference.stop_id)
            for ours, theirs in zip(wanted, found, strict=True):
                divergences.append(divergence(ours, theirs))
                same += int(ours.argmax()) == max(theirs, key=lambda token: theirs[token])
                top = int(ours.argmax())
                largest = max(largest, abs(float(ours[top]) - theirs.get(top, min(theirs.values()))))
    return {
        "kl_per_token": statistics.fmean(divergences),
        "top1": same / len(divergences),
        "largest_top1_logprob_error": largest,
        "positions": len(divergences),
    }


def divergence(wanted: torch.Tensor, found: dict[int, float]) -> float:
    """Return KL(torch, llama.cpp) in nats over the tokens that llama.cpp reports, and all others as one."""
    tokens = torch.tensor(list(found))
    p, q = wanted[tokens].double(), torch.tensor([found[token] for token in found], dtype=torch.float64)
    rest_p, rest_q = (max(1e-12, 1 - float(values.exp().sum())) for values in (p, q))
    return float((p.exp() * (p - q)).sum()) + rest_p * math.log(rest_p / rest_q)


async def ids_of(engine: Engine, prompt: list[int], layers: Layers, tokens: int) -> Any:
    request = Generation(prompt=tuple(prompt), layers=layers, sampling=Sampling(max_tokens=tokens))
    async for token in engine.generate(request):
        if token.id is not None:
            yield token.id


async def engine_speed(engine: Engine, prompt: list[int], layers: Layers) -> float:
    """Return tokens per second of a single stream, from the first token on; the median of three."""
    rates = []
    for _ in range(3):
        how = Sampling(max_tokens=SPEED_TOKENS, temperature=1.0, seed=1)
        request = Generation(prompt=tuple(prompt), layers=layers, sampling=how)
        times = [time.perf_counter() async for _ in engine.generate(request)]
        rates.append((len(times) - 1) / (times[-1] - times[0]))
    return statistics.median(rates)


@torch.no_grad()
def torch_speed(loaded: LoadedBase, prompt: list[int]) -> float:
    """Return transformers' own tokens per second with a cache, from the first token on; the median of three."""
    rates = []
    for _ in range(3):
        ids = torch.tensor([prompt], device=loaded.device)
        cache, times = None, []
        for _ in range(SPEED_TOKENS):
            out = loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, ids = out.past_key_values, out.logits[:, -1:].argmax(-1)
            times.append(time.perf_counter())
        rates.append((len(times) - 1) / (times[-1] - times[0]))
    return statistics.median(rates)


def read_prompts(renderer: Renderer) -> list[list[int]]:
    """Return the questions of the demo's general file and of its tools, taken in turn."""
    general = [json.loads(line)["query"] for line in (DEMO / "general.jsonl").read_text("utf-8").splitlines()]
    asked = [renderer.prompt([Message("user", f"{query}?")]) for query in general]
    rows = [json.loads(line)["messages"] for line in (DEMO / "tools_test.jsonl").read_text("utf-8").splitlines()]
    tools = [renderer.prompt([Message(m["role"], m["content"]) for m in row[:-1]]) for row in rows]
    return [prompt for pair in zip(asked, tools, strict=False) for prompt in pair]


def share(first: Sequence[list[int]], second: Sequence[list[int]]) -> float:
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(first)


if __name__ == "__main__":
    main()
