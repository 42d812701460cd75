"""The bundled base through llama.cpp: what torch answers, in 16 bits, whatever stack was asked before."""

from __future__ import annotations

import asyncio

import pytest
import torch
from laws import draw_layers

from lamina.config import BaseSettings
from lamina.data.render import Renderer
from lamina.infer.generate import greedy_answers
from lamina.lora.surgery import attach
from lamina.model.base import load_base, resolve_base
from lamina.ops.llama import make_llama_engine, why_no_llama
from lamina.records import Message, Quiet
from lamina.serve.engine import Generation, Layers, Sampling
from lamina.serve.torch_engine import TorchEngine

QUESTIONS = ("What is the capital of France?", "What is 2 + 2?", "Name three colours.")


@pytest.mark.real
def test_served_answers_are_torchs() -> None:
    base = resolve_base(BaseSettings(), Quiet())
    assert why_no_llama(base) is None
    loaded = load_base(base, dtype=torch.float32)
    renderer = Renderer(loaded.tokenizer, base.template)
    prompts = [renderer.prompt([Message("user", question)]) for question in QUESTIONS]
    adapters = dict(zip("ab", draw_layers(loaded.model, 2, seed=3, size=0.1).adapters, strict=True))
    stacks: list[Layers] = [(), (("a", 1.0),), (("a", 0.5), ("b", 1.0))]
    wanted = []
    for layers in stacks:
        attach(loaded.model, [adapters[name] for name, _ in layers], [scale for _, scale in layers])
        wanted.append(greedy_answers(loaded, prompts, max_tokens=12))

    async def serve() -> list[list[list[int]]]:
        engine = make_llama_engine(base, Quiet(), adapter=adapters.__getitem__, known=lambda: stacks)

        async def answer(prompt: list[int], layers: Layers) -> list[int]:
            request = Generation(prompt=tuple(prompt), layers=layers, sampling=Sampling(max_tokens=12))
            return [token.id async for token in engine.generate(request) if token.id is not None]

        await engine.start()
        try:
            flat = await asyncio.gather(*(answer(prompt, layers) for layers in stacks for prompt in prompts))
        finally:
            await engine.stop()
        return [flat[start : start + len(prompts)] for start in range(0, len(flat), len(prompts))]

    found = asyncio.run(serve())
    assert wanted[0] != wanted[1] != wanted[2]
    assert found == wanted
    assert "Paris" in renderer.text(found[0][0])


@pytest.mark.real
def test_embeddings_are_torchs() -> None:
    base = resolve_base(BaseSettings(), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    renderer = Renderer(loaded.tokenizer, base.template)
    asked = [*QUESTIONS, "Say it again, please. " * 60]
    prompts = [tuple(renderer.prompt([Message("user", question)])) for question in asked]
    adapters = dict(zip("ab", draw_layers(loaded.model, 2, seed=3, size=0.1).adapters, strict=True))
    stacks: list[Layers] = [(), (("a", 0.5), ("b", 1.0)), ()]

    async def embed() -> list[list[torch.Tensor]]:
        engines = (
            TorchEngine(lambda: loaded, adapters.__getitem__),
            make_llama_engine(base, Quiet(), adapter=adapters.__getitem__, known=lambda: ()),
        )
        found = []
        for engine in engines:
            await engine.start()
            try:
                vectors = [await engine.embed(prompt, layers) for layers in stacks for prompt in prompts]
            finally:
                await engine.stop()
            found.append([torch.tensor(vector) for vector in vectors])
        return found

    wanted, found = asyncio.run(embed())
    bare, layered = wanted[: len(prompts)], wanted[len(prompts) : 2 * len(prompts)]
    assert max(float(one @ other) for one, other in zip(bare, layered, strict=True)) < 0.99
    assert min(float(one @ other) for one, other in zip(found, wanted, strict=True)) > 0.9999
