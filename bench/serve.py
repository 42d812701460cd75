"""``lamina serve`` measured: what the gateway costs, stacks against none, switching, many stacks, a soak, parity.

    python bench/serve.py --json                       # llama.cpp, ten minutes of soak
    python bench/serve.py --engine torch --soak-seconds 60 --parity-prompts 50

The engine's own figures come from the same engine in this process, asked directly, in turn with the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
from report import publish
from serving_project import MARKERS, Server, make_project, register_more, rss_bytes
from serving_soak import soak
from transformers import AutoModelForCausalLM

from lamina.data.render import Renderer
from lamina.demo.files import data_path
from lamina.lora.surgery import attach
from lamina.model.base import load_base
from lamina.ops.project import Project
from lamina.ops.serve import make_engine
from lamina.records import Message
from lamina.serve.engine import Engine, Generation, Layers, Sampling
from lamina.serve.stacks import Stacks

_QUESTION = "Tell me about the sea, at length."
_PARTS = ("speed", "stacks", "soak", "parity")
_STACK4 = "base+" + "+".join(MARKERS)


class Direct:
    """The engine asked without a gateway."""

    def __init__(self, project: Project, engine: Engine) -> None:
        """Ask ``engine`` for stacks of ``project``."""
        self.engine = engine
        self._stacks = Stacks(project.store, project.base.pin)
        base = project.loaded
        self._renderer = Renderer(base.tokenizer, base.template)
        self.bias = tuple((token, -100.0) for token in sorted(base.stop_ids))

    def layers(self, model: str) -> Layers:
        """Return what ``model`` means."""
        return self._stacks.resolve(model, force=True).layers

    def prompt(self, question: str) -> tuple[int, ...]:
        """Return the ids of a question."""
        return tuple(self._renderer.prompt([Message("user", question)]))

    async def time(self, model: str, tokens: int, question: str = _QUESTION) -> tuple[float, float]:
        """Return the seconds to the first token and to the last of an answer of ``tokens``."""
        sampling = Sampling(max_tokens=tokens, logit_bias=self.bias)
        request = Generation(prompt=self.prompt(question), layers=self.layers(model), sampling=sampling)
        start, first = time.perf_counter(), 0.0
        async for _ in self.engine.generate(request):
            first = first or time.perf_counter() - start
        return first, time.perf_counter() - start

    async def ids(self, prompt: tuple[int, ...], layers: Layers, tokens: int) -> list[int]:
        """Return a greedy answer."""
        request = Generation(prompt=prompt, layers=layers, sampling=Sampling(max_tokens=tokens))
        return [token.id async for token in self.engine.generate(request) if token.id is not None]


class Served:
    """The same through the server.

    What is timed is the server, on processors that engine and client share with it: so the client is a socket that a
    thread waits for, which looks for the first event and the end.
    """

    def __init__(self, url: str, bias: tuple[tuple[int, float], ...]) -> None:
        """Ask the server at ``url``; ``bias`` keeps answers from ending early."""
        self._url = urlsplit(url)
        self._bias = {str(token): value for token, value in bias}

    async def time(self, model: str, tokens: int, question: str = _QUESTION) -> tuple[float, float]:
        """Return the seconds to the first piece of text and to the end of an answer of ``tokens``."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "logit_bias": self._bias,
            "stream": True,
            "stream_options": {"include_usage": True},
            "force": True,
        }
        first, total, answer = await asyncio.to_thread(self._ask, json.dumps(body).encode())
        written = re.findall(rb'"completion_tokens":(\d+)', answer)
        if [int(count) for count in written] != [tokens]:
            raise SystemExit(f"{model}: {tokens} tokens asked for, answered with {answer[-500:]!r}")
        return first, total

    def _ask(self, body: bytes) -> tuple[float, float, bytes]:
        head = (
            f"POST {self._url.path}/chat/completions HTTP/1.1\r\nHost: {self._url.netloc}\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        start, first, answer = time.perf_counter(), 0.0, b""
        with socket.create_connection((self._url.hostname, self._url.port), timeout=300) as connection:
            connection.sendall(head.encode() + body)
            while piece := connection.recv(2**16):
                answer += piece
                first = first or (b"data: {" in answer and time.perf_counter() - start)
        return first, time.perf_counter() - start, answer


async def measure(project: Project, server: Server, engine_name: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Return all figures that compare the server with its engine, and stacks with none."""
    engine = make_engine(project, engine_name)  # type: ignore[arg-type]
    await engine.start()
    direct = Direct(project, engine)
    served = Served(server.url, direct.bias)
    for ask in (direct.time, served.time):
        await ask("base", 4)
        await ask(_STACK4, 4)
    overhead = await _first_tokens(direct, served, rounds)
    speed = await _speeds(direct, served, tokens, rounds)
    switching = await _switching(served, rounds)
    await engine.stop()
    return overhead | speed | switching


async def _first_tokens(direct: Direct, served: Served, rounds: int) -> dict[str, float]:
    """Return both medians of the time to the first token; each question is new, so that no cache has it."""
    own, through = [], []
    for number in range(3 * rounds):
        own.append((await direct.time("base", 2, f"Question {number} to the engine."))[0])
        through.append((await served.time("base", 2, f"Question {number} to the server."))[0])
    return {
        "engine_ttft_ms": 1000 * statistics.median(own),
        "gateway_ttft_ms": 1000 * (statistics.median(through) - statistics.median(own)),
    }


async def _speeds(direct: Direct, served: Served, tokens: int, rounds: int) -> dict[str, float]:
    async def rate(ask: Callable[[str, int], Awaitable[tuple[float, float]]], model: str, streams: int) -> float:
        start = time.perf_counter()
        await asyncio.gather(*(ask(model, tokens) for _ in range(streams)))
        return streams * tokens / (time.perf_counter() - start)

    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, ask, model, streams in (
            ("engine", direct.time, "base", 1),
            ("server", served.time, "base", 1),
            ("stack4", served.time, _STACK4, 1),
            ("engine8", direct.time, "base", 8),
            ("server8", served.time, "base", 8),
        ):
            found.setdefault(name, []).append(await rate(ask, model, streams))
    middle = {name: statistics.median(rates) for name, rates in found.items()}
    return {
        "engine_tokens_per_s": middle["engine"],
        "tokens_per_s": middle["server"],
        "throughput_vs_engine": middle["server"] / middle["engine"],
        "stack4_vs_none": middle["stack4"] / middle["server"],
        "tokens_per_s_8_streams": middle["server8"],
        "throughput_vs_engine_8_streams": middle["server8"] / middle["engine8"],
    }


async def _switching(served: Served, rounds: int) -> dict[str, float]:
    """Return how much longer a first token takes when the request before was for another stack."""
    names = [f"only-{name}" for name in MARKERS]
    for name in names:
        await served.time(name, 2)
    same, other = [], []
    for number in range(2 * rounds):
        for name in names:
            other.append((await served.time(name, 2, f"Question {number} after a switch."))[0])
            same.append((await served.time(name, 2, f"Question {number} without one."))[0])
    return {"switch_ms": 1000 * (statistics.median(other) - statistics.median(same))}


async def many_stacks(project: Project, server: Server, count: int) -> dict[str, int]:
    """Return how much memory ``count`` more stacks take once each has answered, and the size of their weights."""
    served = Served(server.url, ())
    for name in MARKERS:
        await served.time(f"only-{name}", 1)
    before = rss_bytes(server.process.pid)
    names, weights = register_more(project, count)
    for name in names:
        await served.time(name, 1)
    return {"stacks_growth_bytes": rss_bytes(server.process.pid) - before, "stacks_weights_bytes": weights}


async def parity(project: Project, engine_name: str, prompts: int) -> dict[str, float]:
    """Return how often torch in float32 chooses the engine's token too, given the same text before it.

    Half of the questions go to the base, half to a layer at half its weight, which says neither the base's words nor
    its marker's.
    """
    engine = make_engine(project, engine_name)  # type: ignore[arg-type]
    await engine.start()
    direct = Direct(project, engine)
    questions = [direct.prompt(question) for question in _questions()[:prompts]]
    stacks = [direct.layers(model) for model in ("base", "base+amber:0.5")]
    asked = [(prompt, stacks[place % 2]) for place, prompt in enumerate(questions)]
    answers = [await direct.ids(prompt, layers, 32) for prompt, layers in asked]
    await engine.stop()
    exact = load_base(project.base, dtype=torch.float32)
    adapters = {name: project.adapters(project.stack(name).layers) for name in ("base", "base+amber:0.5")}
    agreed = total = equal = 0
    for layers, loaded in zip(stacks, adapters.values(), strict=True):
        attach(exact.model, loaded, [scale for _, scale in layers])
        for (prompt, stack), answer in zip(asked, answers, strict=True):
            if stack == layers and answer:
                with torch.no_grad():
                    states = exact.model.base_model(torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
                choices = exact.head.logits(states[len(prompt) - 1 : -1]).argmax(-1).tolist()
                hits = sum(a == b for a, b in zip(choices, answer, strict=True))
                agreed, total, equal = agreed + hits, total + len(answer), equal + (hits == len(answer))
    return {"parity_top1": agreed / total, "parity_equal_answers": equal / len(answers), "parity_prompts": len(answers)}


def _questions() -> list[str]:
    files = ("general.jsonl", "facts_test.jsonl", "tools_test.jsonl")
    rows = [json.loads(line) for name in files for line in data_path(name).read_text("utf-8").splitlines()]
    return [row["query"] if "query" in row else row["messages"][-2]["content"] for row in rows]


def transformers_speed(project: Project, tokens: int) -> float:
    """Return the tokens per second of transformers' own ``generate`` for one stream, in this machine's dtype."""
    model = AutoModelForCausalLM.from_pretrained(project.base.folder, dtype=project.loaded.model.dtype)
    ids = torch.tensor([Direct(project, make_engine(project, "torch")).prompt(_QUESTION)])
    model.generate(ids, max_new_tokens=4, do_sample=False)
    start = time.perf_counter()
    model.generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)
    return tokens / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="llama")
    parser.add_argument("--rounds", type=int, default=5, help="repetitions of each timing")
    parser.add_argument("--tokens", type=int, default=128, help="length of a timed answer")
    parser.add_argument("--stacks", type=int, default=50, help="stacks registered beside the four")
    parser.add_argument("--soak-seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--parity-prompts", type=int, default=200)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure; all by default")
    parser.add_argument("--project", type=Path, help="keep the measured project there, and use it again if it is there")
    parser.add_argument("--json", action="store_true", help="the last line is JSON; it always is")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lamina-bench-") as scratch:
        project = make_project(chosen.project or Path(scratch))
        figures: dict[str, Any] = {"engine": chosen.engine, "rounds": chosen.rounds}
        if "speed" in chosen.parts:
            _tell("transformers' speed")
            figures["transformers_tokens_per_s"] = transformers_speed(project, chosen.tokens)
        figures |= _serve_and_measure(project, chosen)
        if "parity" in chosen.parts:
            _tell(f"parity with torch, {chosen.parity_prompts} prompts")
            figures |= asyncio.run(parity(project, chosen.engine, chosen.parity_prompts))
        whole = set(chosen.parts) == set(_PARTS)
        publish("-".join(["serve", chosen.engine, *([] if whole else chosen.parts)]), figures)


def _serve_and_measure(project: Project, chosen: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    server = Server.start(project.store.project, chosen.engine)
    try:
        if "speed" in chosen.parts:
            _tell(f"speed, {chosen.rounds} rounds")
            figures |= asyncio.run(measure(project, server, chosen.engine, chosen.rounds, chosen.tokens))
        if "stacks" in chosen.parts:
            _tell(f"{chosen.stacks} more stacks")
            figures |= asyncio.run(many_stacks(project, server, chosen.stacks))
        if "soak" in chosen.parts:
            _tell(f"soak, {chosen.soak_seconds:.0f} s")
            found = soak(server, chosen.soak_seconds, chosen.clients)
            figures |= {
                "wrong_stack": found.wrong,
                "errors_5xx": found.errors_5xx,
                "rss_growth_bytes": found.growth_bytes,
                "soak_seconds": chosen.soak_seconds,
                "soak_clients": chosen.clients,
                "soak_checked": found.checked,
                "soak_left": found.left,
                "soak_statuses": {str(status): count for status, count in sorted(found.statuses.items())},
            }
    finally:
        server.stop()
    return figures


def _tell(part: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {part}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
