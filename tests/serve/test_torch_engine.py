"""The torch engine on tiny models: it says what plain decoding says, for any mix of stacks at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from lamina.errors import StackError
from lamina.infer.generate import stream_tokens
from lamina.lora.adapter import Factors
from lamina.lora.surgery import attach, detach, linear_shapes
from lamina.model.base import LoadedBase
from lamina.serve.engine import EngineError, Generation, RefusedError, Sampling, Token
from lamina.serve.torch_engine import TorchEngine

PROMPT = (0, 70, 75, 12, 30)


def adapter(base: LoadedBase, seed: int) -> dict[str, Factors]:
    random = torch.Generator().manual_seed(seed)
    return {
        path: Factors(torch.randn(2, d_in, generator=random), 0.5 * torch.randn(d_out, 2, generator=random))
        for path, (d_out, d_in) in linear_shapes(base.model).items()
    }


def make_engine(base: LoadedBase) -> TorchEngine:
    layers = {name: adapter(base, seed) for seed, name in enumerate("ab")}

    def read(digest: str) -> Any:
        if digest not in layers:
            raise StackError(f"no layer {digest}")
        return layers[digest]

    return TorchEngine(lambda: base, read)


@asynccontextmanager
async def running(base: LoadedBase) -> Any:
    engine = make_engine(base)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def say(engine: TorchEngine, prompt: Sequence[int] = PROMPT, layers: Any = (), **how: Any) -> list[Token]:
    sampling = Sampling(**{"max_tokens": 12} | how)
    return [
        token async for token in engine.generate(Generation(prompt=tuple(prompt), layers=layers, sampling=sampling))
    ]


def ids(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens if token.id is not None]


def plain(base: LoadedBase, prompt: Sequence[int], layers: Any) -> list[int]:
    attach(base.model, [adapter(base, "ab".index(name)) for name, _ in layers], [scale for _, scale in layers])
    try:
        return list(stream_tokens(base, prompt, max_tokens=12))
    finally:
        detach(base.model)


STACKS = [(), (("a", 1.0),), (("a", 1.0), ("b", 0.5))]


def test_every_stack_at_once_says_what_it_says_alone(any_base: LoadedBase) -> None:
    prompts = [PROMPT, (0, *range(20, 50))]
    wanted = {(s, p): plain(any_base, p, s) for s in STACKS for p in prompts}
    assert len({tuple(answer) for answer in wanted.values()}) > len(prompts)

    async def ask() -> dict[Any, list[int]]:
        async with running(any_base) as engine:
            answers = await asyncio.gather(*(say(engine, p, s) for s, p in wanted))
        return dict(zip(wanted, map(ids, answers), strict=True))

    assert asyncio.run(ask()) == wanted


def test_how_an_answer_ends(llama_base: LoadedBase) -> None:
    async def ask() -> None:
        async with running(llama_base) as engine:
            assert engine.context == 256
            cut = await say(engine, max_tokens=3)
            assert [token.finish for token in cut] == [None, None, "length"]
            stop = next(iter(llama_base.stop_ids))
            ended = await say(engine, logit_bias=((stop, 100.0),))
            assert ended == [Token(id=None, finish="stop")]

    asyncio.run(ask())


def test_log_probabilities_are_the_models_own(llama_base: LoadedBase) -> None:
    async def ask() -> list[Token]:
        async with running(llama_base) as engine:
            return await say(engine, max_tokens=2, top_logprobs=300, temperature=1.5, seed=1)

    first = asyncio.run(ask())[0]
    logits = llama_base.model(input_ids=torch.tensor([PROMPT])).logits[0, -1].float()
    expected = torch.log_softmax(logits, -1)
    assert first.logprob == pytest.approx(float(expected[first.id]), abs=1e-4)
    assert [logprob for _, logprob in first.top] == pytest.approx(
        expected.sort(descending=True).values.tolist(), abs=1e-4
    )


def test_a_seed_gives_the_same_answer_again_and_another_one_not(llama_base: LoadedBase) -> None:
    async def ask() -> list[list[int]]:
        async with running(llama_base) as engine:
            answers = [await say(engine, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
            narrow = await say(engine, temperature=1.5, seed=2, top_p=1e-6)
            greedy = await say(engine)
        return [*map(ids, answers), ids(narrow), ids(greedy)]

    one, again, other, narrow, greedy = asyncio.run(ask())
    assert one == again != other
    assert narrow == greedy


def test_penalties_and_bias_move_the_choice(llama_base: LoadedBase) -> None:
    async def ask() -> tuple[list[int], list[int], list[int]]:
        async with running(llama_base) as engine:
            free = ids(await say(engine))
            varied = ids(await say(engine, presence_penalty=2.0, frequency_penalty=2.0))
            return free, varied, ids(await say(engine, logit_bias=((free[0], -100.0),)))

    free, varied, biased = asyncio.run(ask())
    assert len(set(varied)) > len(set(free))
    assert biased[0] != free[0]


def test_an_answer_bound_to_a_schema_is_one(llama_base: LoadedBase) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }

    async def ask() -> list[list[Token]]:
        async with running(llama_base) as engine:
            bound = await asyncio.gather(
                say(engine, schema=schema, max_tokens=100, temperature=1.0, seed=1),
                say(engine, grammar='root ::= "yes" | "no"', max_tokens=100),
                say(engine, max_tokens=5),
            )
            for wrong in ({"schema": {"type": "wizard"}}, {"grammar": "root ::= ("}, {"schema": {"$ref": "#/nowhere"}}):
                with pytest.raises(RefusedError, match="cannot be bound"):
                    await say(engine, **wrong)
            return bound

    answer, word, free = asyncio.run(ask())
    found = json.loads(llama_base.tokenizer.decode(ids(answer)))
    assert found["city"] in ("Oslo", "Rome")
    assert 1 <= found["n"] <= 9
    assert llama_base.tokenizer.decode(ids(word)) in ("yes", "no")
    assert len(ids(free)) == 5


def test_one_bad_request_ends_no_other(llama_base: LoadedBase) -> None:
    async def ask() -> None:
        async with running(llama_base) as engine:
            good, bad = await asyncio.gather(
                say(engine), say(engine, layers=(("missing", 1.0),)), return_exceptions=True
            )
            assert isinstance(bad, StackError)
            assert ids(good) == plain(llama_base, PROMPT, ())
            assert ids(await say(engine, layers=STACKS[1])) == plain(llama_base, PROMPT, STACKS[1])

    asyncio.run(ask())


def test_a_closed_answer_is_written_no_further(llama_base: LoadedBase) -> None:
    async def ask() -> None:
        async with running(llama_base) as engine:
            sampling = Sampling(max_tokens=10_000)
            answer = engine.generate(Generation(prompt=PROMPT, layers=(), sampling=sampling))
            await anext(answer)
            await answer.aclose()
            assert ids(await say(engine)) == plain(llama_base, PROMPT, ())

    asyncio.run(ask())


def test_stopping_ends_answers_and_starting_again_works(llama_base: LoadedBase) -> None:
    async def ask() -> None:
        engine = make_engine(llama_base)
        with pytest.raises(EngineError, match="not running"):
            await say(engine)
        await engine.start()
        answer = engine.generate(Generation(prompt=PROMPT, layers=(), sampling=Sampling(max_tokens=10_000)))
        await anext(answer)
        await engine.stop()
        with pytest.raises(EngineError, match="stopped"):
            _ = [token async for token in answer]
        await engine.start()
        assert len(await say(engine)) == 12
        await engine.stop()

    asyncio.run(ask())


def test_embeddings_are_unit_means_of_the_stacks_states(llama_base: LoadedBase) -> None:
    async def ask() -> tuple[list[float], list[float]]:
        async with running(llama_base) as engine:
            return await engine.embed(PROMPT, ()), await engine.embed(PROMPT, STACKS[1])

    bare, layered = asyncio.run(ask())
    states = llama_base.model.base_model(input_ids=torch.tensor([PROMPT])).last_hidden_state[0]
    assert bare == pytest.approx(torch.nn.functional.normalize(states.mean(0), dim=0).tolist(), abs=1e-5)
    assert layered != pytest.approx(bare, abs=1e-3)
