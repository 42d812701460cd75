"""The llama.cpp engine on the tiny llama: what torch says is the reference."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from laws import draw_layers
from transformers import AutoModelForCausalLM

from lamina.config import BaseSettings
from lamina.errors import StackError
from lamina.infer.embed import embed_prompts
from lamina.infer.generate import stream_tokens
from lamina.lora.adapter import Adapter
from lamina.lora.surgery import attach
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.ops.llama import make_llama_engine
from lamina.records import Quiet
from lamina.serve.engine import EngineError, Generation, Layers, RefusedError, Sampling, Token
from lamina.serve.llama import LlamaEngine

PROMPT = [5, 9, 33, 121, 7, 88, 64, 2]
A, B = (("a", 1.0),), (("b", 1.0),)
KNOWN: Layers = (("a", 0.5), ("b", -1.0))
STACKS: list[Layers] = [(), A, B, KNOWN, (("b", 2.0), ("a", -0.5))]


class Rig:
    """An engine on the tiny llama with two layers that it knows, and a third that appears when it is used."""

    def __init__(self, loaded: LoadedBase, engine: LlamaEngine, adapters: dict[str, Adapter]) -> None:
        self.loaded, self.engine, self.adapters = loaded, engine, adapters

    async def answer(self, layers: Layers = (), prompt: list[int] = PROMPT, **how: Any) -> list[Token]:
        return [token async for token in self.stream(layers, prompt, **how)]

    def stream(self, layers: Layers = (), prompt: list[int] = PROMPT, **how: Any) -> Any:
        sampling = Sampling(**({"max_tokens": 40} | how))
        return self.engine.generate(Generation(prompt=tuple(prompt), layers=layers, sampling=sampling))

    def torch(self, layers: Layers, prompt: list[int] = PROMPT, tokens: int = 40) -> list[int]:
        attach(self.loaded.model, [self.adapters[name] for name, _ in layers], [scale for _, scale in layers])
        return list(stream_tokens(self.loaded, prompt, max_tokens=tokens))

    def point(self, layers: Layers, prompt: list[int] = PROMPT) -> torch.Tensor:
        attach(self.loaded.model, [self.adapters[name] for name, _ in layers], [scale for _, scale in layers])
        with torch.no_grad():
            states = self.loaded.model.base_model(input_ids=torch.tensor([prompt])).last_hidden_state
        return torch.nn.functional.normalize(states[0].mean(0), dim=0)


Play = Callable[[Callable[[Rig], Awaitable[None]]], None]


@pytest.fixture
def play(tmp_path: Path, base_folders: dict[str, Path]) -> Play:
    """Return a function that runs a scene with a rig whose choices are sharp, so that rounding decides none."""
    folder = tmp_path / "tiny"
    model = AutoModelForCausalLM.from_pretrained(base_folders["llama"])
    for parameter in model.parameters():
        parameter.data.mul_(12.0) if parameter.dim() == 2 else None
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((base_folders["llama"] / name).read_bytes())
    base = resolve_base(BaseSettings(model=str(folder)), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    adapters = dict(zip("abc", draw_layers(loaded.model, 3, seed=5, size=0.7).adapters, strict=True))

    def read(name: str) -> Adapter:
        if name not in adapters:
            raise StackError(f"layer '{name}' is gone")
        return adapters[name]

    def run(scene: Callable[[Rig], Awaitable[None]]) -> None:
        async def whole() -> None:
            engine = make_llama_engine(base, Quiet(), adapter=read, known=lambda: [KNOWN, A], threads=1)
            await engine.start()
            try:
                await scene(Rig(loaded, engine, adapters))
            finally:
                await engine.stop()

        asyncio.run(asyncio.wait_for(whole(), 60))

    return run


def test_answers_are_torchs_whatever_was_asked_before(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        wanted = [rig.torch(layers) for layers in STACKS]
        assert len({tuple(answer) for answer in wanted}) == len(STACKS)
        for place in (0, 1, 2, 3, 4, 1, 0, 2, 1, 4, 3):  # one prompt, so that a shared cache would be found
            assert ids(await rig.answer(STACKS[place])) == wanted[place]
        together = await asyncio.gather(*(rig.answer(layers) for layers in STACKS * 2))
        assert [ids(answer) for answer in together] == wanted * 2

    play(scene)


def test_no_stack_waits_for_the_end_of_anothers_answer(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        order: list[str] = []

        async def follow(name: str, layers: Layers) -> None:
            async for _ in rig.stream(layers, max_tokens=100, logit_bias=((1, -1e4),)):
                order.append(name)  # noqa: PERF401  (the order in time is the point)

        await asyncio.gather(follow("a", A), follow("b", B))
        assert order.index("b") < 40
        assert len(order) == 200

    play(scene)


def test_how_an_answer_ends(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        long = await rig.answer(max_tokens=33, logit_bias=((1, -1e4),))
        assert len(long) == 33
        assert [token.finish for token in long] == [None] * 32 + ["length"]
        ended = await rig.answer(logit_bias=((1, 1e4),))
        assert [(token.id, token.finish) for token in ended] == [(None, "stop")]
        full = await rig.answer(prompt=PROMPT * 31, max_tokens=100, logit_bias=((1, -1e4),))
        assert full[-1].finish == "length"
        assert len(ids(full)) == 256 - 31 * len(PROMPT)

    play(scene)


def test_log_probabilities_are_the_models_own_for_every_token(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        answer = await rig.answer(A, top_logprobs=3, temperature=1.0, seed=1, logit_bias=((1, -1e4), (7, 1.0)))
        chosen = ids(answer)
        assert len(chosen) == 40  # of bytes, most of which end within a character
        attach(rig.loaded.model, [rig.adapters["a"]])
        with torch.no_grad():
            logits = rig.loaded.model(input_ids=torch.tensor([PROMPT + chosen])).logits[0, len(PROMPT) - 1 : -1]
        wanted = torch.log_softmax(logits.float(), -1)
        for token, row in zip(answer, wanted, strict=True):
            assert token.id is not None
            assert token.logprob == pytest.approx(float(row[token.id]), abs=0.1)
            assert [other for other, _ in token.top][:1] == [int(row.argmax())]
            assert len(token.top) == 3
        bare = await rig.answer(max_tokens=3, top_logprobs=0)
        assert all(token.top == () and token.logprob is not None for token in bare if token.id is not None)

    play(scene)


def test_sampling_follows_its_seed(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        how: dict[str, Any] = {"temperature": 3.0, "logit_bias": ((1, -1e4),)}
        first, again, other = [ids(await rig.answer(seed=seed, **how)) for seed in (1, 1, 2)]
        assert first == again != other
        assert ids(await rig.answer(seed=1, **how | {"top_p": 1e-6})) == ids(
            await rig.answer(**how | {"temperature": 0.0})
        )
        assert ids(await rig.answer(**how)) != ids(await rig.answer(**how))

    play(scene)


def test_penalties_count_the_answers_own_tokens(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        wished = PROMPT[0]  # which a penalty on the prompt would keep out
        never_twice = ids(await rig.answer(presence_penalty=1e4, logit_bias=((1, -1e6), (wished, 100.0))))
        assert len(set(never_twice)) == 40
        assert never_twice[0] == wished

    play(scene)


def test_bound_answers(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        numbers = {"n": {"enum": [1, 22]}}
        schema = {"type": "object", "properties": numbers, "required": ["n"], "additionalProperties": False}
        answer = await rig.answer(schema=schema)
        assert json.loads(rig.loaded.tokenizer.decode(ids(answer)))["n"] in (1, 22)
        assert answer[-1].finish == "stop"
        word = await rig.answer(A, grammar='root ::= "the" | "dog"', top_logprobs=1)
        assert rig.loaded.tokenizer.decode(ids(word)) in ("the", "dog")
        assert all(token.logprob is not None for token in word[:-1])
        for wrong in ({"schema": {"type": "wrong"}}, {"grammar": "nonsense"}):
            with pytest.raises(RefusedError):
                await rig.answer(**wrong)

    play(scene)


def test_a_new_layer_appears_while_streams_go_on(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        async with rig.engine._using(A) as before:  # as a stream does
            assert ids(await rig.answer((("c", 1.0),))) == rig.torch((("c", 1.0),))
            assert rig.engine._worker is not before
            said, _ = await before.ask(0, A, PROMPT, 8, {"temperature": 0.0})
            assert [one.id for one in said] == rig.torch(A)[:8]
        await asyncio.gather(*rig.engine._behind)
        assert not before.alive
        assert ids(await rig.answer(B)) == rig.torch(B)

    play(scene)


def test_a_sum_asked_for_again_becomes_one_adapter(play: Play) -> None:
    summed, other = (("a", 0.25), ("b", 0.5)), (("b", 0.25), ("a", 0.5))

    async def scene(rig: Rig) -> None:
        engine, wanted = rig.engine, rig.torch(summed)
        started = engine._worker
        for layers in (summed, (("a", 0.5),), (("a", 0.5),)):  # one layer is one adapter at any scale
            assert ids(await rig.answer(layers)) == rig.torch(layers)
        assert not engine._behind
        assert ids(await rig.answer(summed)) == wanted
        await asyncio.gather(*engine._behind)
        assert engine._worker is not None
        assert engine._worker is not started
        assert engine._worker.holds(summed)
        assert ids(await rig.answer(summed)) == wanted
        for _ in range(3):  # the next one has to wait for its minute, and is answered all the same
            assert ids(await rig.answer(other)) == rig.torch(other)
        assert not engine._worker.holds(other)

    play(scene)


def test_a_sum_that_cannot_be_loaded_is_done_without(play: Play) -> None:
    summed = (("a", 0.25), ("b", 0.5))

    async def scene(rig: Rig) -> None:
        engine, right = rig.engine, rig.engine._adapter

        def spoil(layers: Layers, path: Path) -> None:
            path.write_bytes(b"GGUF") if layers == summed else right(layers, path)

        engine._adapter = spoil  # type: ignore[assignment]
        for _ in range(2):
            assert ids(await rig.answer(summed)) == rig.torch(summed)
        await asyncio.gather(*engine._behind)
        assert not engine._sums.kept
        assert ids(await rig.answer((("c", 1.0),))) == rig.torch((("c", 1.0),))

    play(scene)


def test_closing_the_stream_frees_the_slot(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        for _ in range(6):  # more than there are slots
            async with aclosing(rig.stream(A, max_tokens=240, logit_bias=((1, -1e4),))) as stream:
                await anext(stream)
        assert ids(await rig.answer(B)) == rig.torch(B)

    play(scene)


def test_a_crash_ends_the_answer_and_the_next_one_works(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        stream = rig.stream(A, max_tokens=240, logit_bias=((1, -1e4),))
        await anext(stream)
        assert rig.engine._worker is not None
        assert rig.engine._worker._process is not None
        rig.engine._worker._process.kill()
        with pytest.raises(EngineError, match=r"llama\.cpp went away"):
            async for _ in stream:
                pass
        assert ids(await rig.answer(B)) == rig.torch(B)

    play(scene)


def test_a_layer_that_is_gone_is_missed_by_nobody_else(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(rig: Rig) -> None:
        await rig.engine.stop()
        gone = rig.adapters.pop("b")
        await rig.engine.start()
        assert "'b' is gone" in caplog.text
        assert ids(await rig.answer(A)) == rig.torch(A)
        assert float(await embed(rig, A) @ rig.point(A)) > 0.9999
        with pytest.raises(StackError, match="'b' is gone"):
            await rig.answer(KNOWN)
        rig.adapters["b"] = gone
        assert ids(await rig.answer(KNOWN)) == rig.torch(KNOWN)

    play(scene)


def test_a_layer_that_llama_cpp_cannot_load_stops_nobody_else(play: Play) -> None:
    c = (("c", 1.0),)

    async def scene(rig: Rig) -> None:
        right = rig.engine._adapter
        rig.engine._adapter = lambda layers, path: path.write_bytes(b"GGUF")  # type: ignore[assignment, return-value]
        with pytest.raises(EngineError, match="did not start") as refused:
            await rig.answer(c)
        assert not refused.value.lost
        assert ids(await rig.answer(B)) == rig.torch(B)
        rig.engine._adapter = right
        await crash(rig)
        assert ids(await rig.answer(B)) == rig.torch(B)
        assert ids(await rig.answer(c)) == rig.torch(c)

    play(scene)


def test_an_engine_that_cannot_come_back_says_that_it_is_lost(play: Play, tmp_path: Path) -> None:
    async def scene(rig: Rig) -> None:
        assert rig.engine._settings is not None
        rig.engine._settings = replace(rig.engine._settings, model=tmp_path / "gone.gguf")
        assert ids(await rig.answer(A)) == rig.torch(A)
        await crash(rig)
        with pytest.raises(EngineError, match="did not start") as lost:
            await rig.answer(A)
        assert lost.value.lost
        await rig.engine.stop()
        await rig.engine.start()  # as a gateway does then, which looks for the base again
        assert ids(await rig.answer(A)) == rig.torch(A)

    play(scene)


def test_a_request_that_leaves_while_its_layer_is_loaded(play: Play) -> None:
    c = (("c", 1.0),)

    async def scene(rig: Rig) -> None:
        asked = asyncio.create_task(rig.answer(c))
        while not rig.engine._changing.locked():
            await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert rig.engine._changing.locked()  # the start goes on
        assert ids(await rig.answer(c)) == rig.torch(c)
        files = list(rig.engine._files.values())
        assert len(files) == len(list(files[0].parent.iterdir())) == len(set(files))

    play(scene)


def test_stopping_ends_the_process_that_a_stream_still_holds(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        async with rig.engine._using(A) as before:
            await rig.answer((("c", 1.0),))
            assert before.alive
            await rig.engine.stop()
            assert not before.alive

    play(scene)


def test_embeddings_are_torchs_with_any_layers_whatever_was_embedded_before(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        assert rig.engine._embedder is not None
        await rig.answer(A)
        assert rig.engine._embedder._worker is None  # who embeds nothing pays nothing
        wanted = [rig.point(layers) for layers in STACKS]
        far = [float(one @ other) for place, one in enumerate(wanted) for other in wanted[:place]]
        assert max(far) < 0.99
        for place in (0, 1, 2, 3, 4, 1, 0, 2, 4, 1):  # one prompt, so that a shared cache would be found
            assert float(await embed(rig, STACKS[place]) @ wanted[place]) > 0.9999
        together = await asyncio.gather(*(embed(rig, layers) for layers in STACKS), rig.answer(B))
        assert all(float(one @ other) > 0.9999 for one, other in zip(together, wanted, strict=False))
        assert ids(together[-1]) == rig.torch(B)
        assert float(await embed(rig, (("c", 1.0),)) @ rig.point((("c", 1.0),))) > 0.9999

    play(scene)


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3"])
def test_embeddings_of_other_families_are_torchs(family: str, base_folders: dict[str, Path]) -> None:
    base = resolve_base(BaseSettings(model=str(base_folders[family])), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    (wanted,) = embed_prompts(loaded, [PROMPT])

    async def served() -> torch.Tensor:
        engine = make_llama_engine(base, Quiet(), adapter={}.__getitem__, known=lambda: (), threads=1)
        await engine.start()
        try:
            return torch.tensor(await engine.embed(tuple(PROMPT), ()), dtype=torch.float64)
        finally:
            await engine.stop()

    assert float(asyncio.run(served()) @ torch.from_numpy(wanted)) > 0.9999


def test_embeddings_end_where_they_must_and_come_back(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        assert rig.engine._embedder is not None
        assert float((await embed(rig, (), PROMPT * 32)).norm()) == pytest.approx(1)
        with pytest.raises(RefusedError, match="up to 256 tokens; this one has 264"):
            await rig.engine.embed(tuple(PROMPT * 33), ())
        with pytest.raises(StackError, match="'unknown' is gone"):
            await rig.engine.embed(tuple(PROMPT), (("unknown", 1.0),))
        worker = rig.engine._embedder._worker
        assert worker is not None
        assert worker._process is not None
        worker._process.kill()
        await worker._process.wait()
        assert float(await embed(rig, A) @ rig.point(A)) > 0.9999
        assert ids(await rig.answer(B)) == rig.torch(B)

    play(scene)


def test_what_stops_and_what_never_started(play: Play) -> None:
    async def scene(rig: Rig) -> None:
        embedder = rig.engine._embedder
        assert embedder is not None
        await embed(rig, ())
        await rig.engine.stop()
        assert embedder._worker is None
        for late in (rig.engine, embedder):
            with pytest.raises(EngineError, match="not running"):
                await late.embed(tuple(PROMPT), ())
        with pytest.raises(EngineError, match="not running"):
            await rig.answer()
        await rig.engine.start()
        assert ids(await rig.answer(A)) == rig.torch(A)
        with pytest.raises(StackError, match="'unknown' is gone"):
            await rig.answer((("unknown", 1.0),))
        assert ids(await rig.answer(A)) == rig.torch(A)

    play(scene)


async def crash(rig: Rig) -> None:
    assert rig.engine._worker is not None
    assert rig.engine._worker._process is not None
    rig.engine._worker._process.kill()
    await rig.engine._worker._process.wait()


async def embed(rig: Rig, layers: Layers, prompt: list[int] = PROMPT) -> torch.Tensor:
    return torch.tensor(await rig.engine.embed(tuple(prompt), layers))


def ids(answer: list[Token]) -> list[int]:
    return [token.id for token in answer if token.id is not None]
