"""How llama.cpp's threads should wait for each other: tokens per second by spinning, alone and beside busy processes.

    python bench/llama_waiting.py [--json]

``spin`` is GNU OpenMP's ``GOMP_SPINCOUNT``: how often a thread looks again before it sleeps. ``busy`` is how many other
processes compute without end. ``one`` and ``four`` are the bare base's tokens per second with that many streams, the
median of some rounds. Every setting is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from llama_stacks import TOKENS, Asker
from report import publish

from lamina.config import BaseSettings
from lamina.data.render import Renderer
from lamina.model.base import load_base, resolve_base
from lamina.ops.llama import make_llama_engine
from lamina.records import Message, Quiet

SPINS = (0, 100, 200, 300, 500, 2000, 20_000)
ROUNDS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="taken for all benches alike; the line is always printed")
    parser.parse_args()
    found = []
    threads = len(os.sched_getaffinity(0))
    for busy in range(threads + 1):
        with _busy(busy):
            found.append({"threads": 1, "busy": busy, **asyncio.run(rates(1))})
            for spin in SPINS:
                os.environ["GOMP_SPINCOUNT"] = str(spin)  # which the process of llama.cpp takes over
                found.append({"threads": threads, "busy": busy, "spin": spin, **asyncio.run(rates(threads))})
            del os.environ["GOMP_SPINCOUNT"]
    publish("llama_waiting", {"settings": found})


async def rates(threads: int) -> dict[str, Any]:
    """Return the tokens per second of one stream and of four together."""
    base = resolve_base(BaseSettings(), Quiet())
    loaded = load_base(base, dtype=torch.float32)
    prompt = Renderer(loaded.tokenizer, base.template).prompt([Message("user", "Tell me about the sea.")])
    ask = Asker(make_llama_engine(base, Quiet(), adapter=_none, known=list, threads=threads), prompt, loaded.stop_ids)
    del loaded
    await ask.engine.start()
    try:
        one = [await ask.rate(()) for _ in range(ROUNDS)]
        four = [await _together(ask, 4) for _ in range(ROUNDS)]
    finally:
        await ask.engine.stop()
    return {"one": statistics.median(one), "four": statistics.median(four)}


def _none(digest: str) -> Any:
    raise KeyError(digest)


async def _together(ask: Asker, streams: int) -> float:
    started = time.perf_counter()
    await asyncio.gather(*(ask.times((), TOKENS) for _ in range(streams)))
    return streams * TOKENS / (time.perf_counter() - started)


@contextmanager
def _busy(count: int) -> Iterator[None]:
    others = [multiprocessing.Process(target=_compute, daemon=True) for _ in range(count)]
    for other in others:
        other.start()
    yield
    for other in others:
        other.terminate()


def _compute() -> None:
    while True:
        pass


if __name__ == "__main__":
    main()
