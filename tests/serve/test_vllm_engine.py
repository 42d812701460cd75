"""The vLLM engine on the bundled base, in float32 on the CPU: what torch says is the reference."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from laws import draw_layers

from lamina.config import BaseSettings
from lamina.data.render import Renderer
from lamina.errors import StackError
from lamina.infer.generate import greedy_answers
from lamina.lora.adapter import Adapter, Factors
from lamina.lora.surgery import attach, detach
from lamina.model.base import load_base, resolve_base
from lamina.ops.vllm import make_vllm_engine
from lamina.records import Message, Quiet
from lamina.serve.engine import EngineError, Generation, Layers, RefusedError, Sampling, Token

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.real,
    # what vLLM's own modules and processes say when they come and go
    pytest.mark.filterwarnings("ignore"),
]

QUESTIONS = ("What is the capital of France?", "What is 2 + 2?", "Name three colours.")
A, B, BOTH = (("a", 1.0),), (("b", 1.0),), (("a", 0.5), ("b", 1.0))
STACKS: list[Layers] = [(), A, B, BOTH]
OPTIONS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 1024, "kv_cache_memory_bytes": 2**29}
_Result = TypeVar("_Result")


class Rig:
    """An engine in a loop of its own, and what torch makes of the same layers."""

    def __init__(self, folder: Path) -> None:
        base = resolve_base(BaseSettings(), Quiet())
        self.loaded = load_base(base, dtype=torch.float32)
        self.renderer = Renderer(self.loaded.tokenizer, base.template)
        self.adapters: dict[str, Adapter] = dict(
            zip("ab", draw_layers(self.loaded.model, 2, seed=3, size=0.1).adapters, strict=True)
        )
        path = "model.layers.0.mlp.up_proj"
        d_out, d_in = self.loaded.model.get_submodule(path).weight.shape
        self.adapters["deep"] = {path: Factors(torch.ones(65, int(d_in)), torch.ones(int(d_out), 65))}
        self.folder = folder
        self.engine = make_vllm_engine(base, folder, adapter=self.read, ranks=lambda: [8, 16], options=OPTIONS)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    def read(self, digest: str) -> Adapter:
        if digest not in self.adapters:
            raise StackError(f"no layer {digest}")
        return self.adapters[digest]

    def run(self, scene: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(scene, self.loop).result(300)

    def prompt(self, text: str) -> list[int]:
        return self.renderer.prompt([Message("user", text)])

    def stream(self, layers: Layers, prompt: list[int], **how: Any) -> Any:
        sampling = Sampling(**({"max_tokens": 24} | how))
        return self.engine.generate(Generation(prompt=tuple(prompt), layers=layers, sampling=sampling))

    async def answer(self, layers: Layers, prompt: list[int], **how: Any) -> list[Token]:
        return [token async for token in self.stream(layers, prompt, **how)]

    def torch(self, layers: Layers, prompts: list[list[int]]) -> list[list[int]]:
        attach(self.loaded.model, [self.adapters[name] for name, _ in layers], [scale for _, scale in layers])
        try:
            return greedy_answers(self.loaded, prompts, max_tokens=24)
        finally:
            detach(self.loaded.model)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    made = Rig(tmp_path_factory.mktemp("vllm"))
    made.run(made.engine.start())
    yield made
    made.run(made.engine.stop())
    made.loop.call_soon_threadsafe(made.loop.stop)
    made.thread.join()
    made.loop.close()


def test_answers_of_all_stacks_together_are_torchs(rig: Rig) -> None:
    prompts = [rig.prompt(question) for question in QUESTIONS]
    wanted = [rig.torch(layers, prompts) for layers in STACKS]
    assert len({str(answers) for answers in wanted}) == len(STACKS)

    async def ask() -> list[list[Token]]:
        return await asyncio.gather(*(rig.answer(layers, prompt) for layers in STACKS for prompt in prompts))

    found = [ids(answer) for answer in rig.run(ask())]
    assert found == [answer for answers in wanted for answer in answers]
    assert "Paris" in rig.renderer.text(found[0])
    silent = rig.run(rig.answer((("a", 0.0),), prompts[0]))
    assert ids(silent) == wanted[0][0]
    assert silent[-1] == Token(id=None, finish="stop")


def test_what_is_kept_of_a_prompt_belongs_to_one_stack(rig: Rig) -> None:
    prompt = rig.prompt("Paris, Rome, Oslo and Bern are capitals. " * 15 + "Which one is in Norway?")
    wanted = {layers: rig.torch(layers, [prompt])[0] for layers in STACKS}

    async def cached_tokens(layers: Layers) -> int:
        """Return how many of the prompt's tokens vLLM does not compute again."""
        from vllm.inputs import tokens_input

        from lamina.serve.vllm_answer import sampling_params

        engine = rig.engine._engine
        params = sampling_params(Sampling(max_tokens=1), frozenset())
        adapter = await rig.engine._load(engine, layers)
        answer = engine.generate(tokens_input(prompt), params, f"look {layers}", lora_request=adapter)
        return [piece.num_cached_tokens async for piece in answer][-1]

    async def ask() -> None:
        for layers in STACKS:
            assert await cached_tokens(layers) == 0
            assert await cached_tokens(layers) > len(prompt) // 2  # so there is something to be mixed up
        for layers in reversed(STACKS):
            assert ids(await rig.answer(layers, prompt)) == wanted[layers]
        together = await asyncio.gather(*(rig.answer(layers, prompt) for layers in STACKS))
        assert [ids(answer) for answer in together] == [wanted[layers] for layers in STACKS]

    rig.run(ask())


def test_log_probabilities_are_the_models_own(rig: Rig) -> None:
    prompt = rig.prompt(QUESTIONS[0])
    how = {"max_tokens": 12, "top_logprobs": 3, "temperature": 1.5, "seed": 1, "logit_bias": ((28, 2.0),)}
    answer = rig.run(rig.answer(A, prompt, **how))
    attach(rig.loaded.model, [rig.adapters["a"]])
    with torch.no_grad():
        logits = rig.loaded.model(input_ids=torch.tensor([prompt + ids(answer)])).logits[0, len(prompt) - 1 :]
    detach(rig.loaded.model)
    for token, row in zip(answer, torch.log_softmax(logits.float(), -1), strict=False):
        if token.id is not None:
            assert token.logprob == pytest.approx(float(row[token.id]), abs=0.02)
            assert [other for other, _ in token.top] == row.topk(3).indices.tolist()
    bare = rig.run(rig.answer(A, prompt, max_tokens=2, top_logprobs=0))
    assert [(token.top, token.logprob is None, token.finish) for token in bare] == [
        ((), False, None),
        ((), False, "length"),
    ]


def test_sampling_follows_seed_top_p_and_penalties(rig: Rig) -> None:
    prompt, wild = rig.prompt(QUESTIONS[2]), {"temperature": 2.0, "max_tokens": 12}

    async def ask(**how: Any) -> list[int]:
        return ids(await rig.answer(BOTH, prompt, **how))

    one, again, other, least = (rig.run(ask(**wild, seed=seed)) for seed in (1, 1, 2, -(2**63)))
    assert one == again != other
    assert least
    assert rig.run(ask(**wild, seed=1, top_p=1e-6)) == rig.run(ask(max_tokens=12))
    free = rig.run(ask(max_tokens=24))
    varied = rig.run(ask(max_tokens=24, presence_penalty=2.0, frequency_penalty=2.0))
    assert len(set(varied)) / len(varied) > len(set(free)) / len(free)


def test_bound_answers(rig: Rig) -> None:
    prompt = rig.prompt(QUESTIONS[1])
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Rome"]}, "n": {"enum": [1, 22]}},
        "required": ["city", "n"],
        "additionalProperties": False,
    }
    answer = rig.run(rig.answer(A, prompt, schema=schema, max_tokens=40))
    text = rig.renderer.text(ids(answer))
    assert text == json.dumps(json.loads(text))  # spaces as models are trained on, and no others
    assert answer[-1].finish == "stop"
    word = rig.run(rig.answer((), prompt, grammar='root ::= "the" | "dog"', temperature=1.0, top_logprobs=1))
    assert rig.renderer.text(ids(word)) in ("the", "dog")
    for wrong in ({"schema": {"type": "wrong"}}, {"grammar": "nonsense"}):
        with pytest.raises(RefusedError, match="cannot be"):
            rig.run(rig.answer((), prompt, **wrong))


def test_closing_the_stream_ends_the_work(rig: Rig) -> None:
    async def ask() -> None:
        stream = rig.stream(A, rig.prompt(QUESTIONS[0]), max_tokens=900, logit_bias=_never_ending(rig))
        async with aclosing(stream):
            await anext(stream)
            assert rig.engine._engine.get_num_unfinished_requests() == 1
        assert rig.engine._engine.get_num_unfinished_requests() == 0
        assert not rig.engine._answers

    rig.run(ask())


def test_ctrl_c_does_not_reach_its_processes(rig: Rig) -> None:
    import psutil  # which vllm needs as well

    born = [process for process in psutil.Process().children(recursive=True) if process.name().startswith("VLLM")]
    assert born
    for process in born:
        status = Path(f"/proc/{process.pid}/status").read_text("utf-8")
        blocked = next(line for line in status.splitlines() if line.startswith("SigBlk:"))
        assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_what_cannot_be_answered_ends_nothing_else(rig: Rig) -> None:
    prompt = rig.prompt(QUESTIONS[0])
    wanted = rig.torch(B, [prompt])[0]

    async def ask(layers: Layers) -> list[int]:
        good, bad = await asyncio.gather(rig.answer(B, prompt), rig.answer(layers, prompt), return_exceptions=True)
        assert isinstance(bad, Exception)
        assert ids(good) == wanted
        raise bad

    with pytest.raises(RefusedError, match=r"rank 65 together, and the server was started with room for 64: .*squash"):
        rig.run(ask((("deep", 1.0),)))
    with pytest.raises(StackError, match="no layer c"):
        rig.run(ask((("c", 1.0),)))
    damaged = (("a", 0.25),)
    weights = rig.engine._adapter(damaged, 64) / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(EngineError) as failure:
        rig.run(ask(damaged))
    assert not failure.value.lost


def test_stopping_ends_answers_and_starting_again_works(rig: Rig) -> None:
    prompt = rig.prompt(QUESTIONS[0])

    async def ask() -> None:
        stream = rig.stream(A, prompt, max_tokens=900, logit_bias=_never_ending(rig))
        await anext(stream)
        await rig.engine.stop()
        with pytest.raises(EngineError, match="stopped"):
            _ = [token async for token in stream]
        with pytest.raises(EngineError, match="not running"):
            await rig.answer((), prompt)
        await rig.engine.start()
        assert rig.engine.context == OPTIONS["max_model_len"]
        assert ids(await rig.answer(A, prompt)) == wanted

    wanted = rig.torch(A, [prompt])[0]
    assert rig.run(rig.engine.embed(tuple(prompt), A)) is None
    rig.run(ask())


def test_an_engine_that_dies_is_lost_and_can_be_started_again(rig: Rig) -> None:
    prompt = rig.prompt(QUESTIONS[0])

    async def ask() -> None:
        stream = rig.stream(A, prompt, max_tokens=900, logit_bias=_never_ending(rig))
        await anext(stream)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(EngineError) as failure:
            _ = [token async for token in stream]
        assert failure.value.lost
        with pytest.raises(EngineError) as failure:
            await rig.answer((), prompt)
        assert failure.value.lost
        await rig.engine.stop()
        await rig.engine.start()
        assert ids(await rig.answer(B, prompt)) == wanted

    wanted = rig.torch(B, [prompt])[0]
    rig.run(ask())


def ids(answer: list[Token]) -> list[int]:
    return [token.id for token in answer if token.id is not None]


def _never_ending(rig: Rig) -> tuple[tuple[int, float], ...]:
    return tuple((token, -100.0) for token in rig.loaded.stop_ids)
