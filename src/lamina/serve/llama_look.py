"""What a GGUF file and its adapters make of given texts: log-probabilities, to hold against torch's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from lamina.serve.engine import Layers
from lamina.serve.llama_worker import Worker, WorkerSettings

__all__ = ["look_ahead", "opened"]

_FORCED = 1e4  # a bias that no logit comes near


@asynccontextmanager
async def opened(model: Path, adapters: Mapping[str, Path], *, context: int, threads: int) -> AsyncIterator[Worker]:
    """Yield a process that holds ``model`` and, by name, ``adapters``; for one text at a time."""
    files: dict[Layers, Path] = {((name, 1.0),): path for name, path in adapters.items()}
    worker = Worker(WorkerSettings(model=model, slots=1, context=context, threads=threads), files)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def look_ahead(
    worker: Worker, layers: Layers, ids: Sequence[int], positions: Sequence[int], *, most: int, stop_id: int
) -> list[dict[int, float]]:
    """Return, for each position, the log-probabilities of the ``most`` likeliest tokens behind ``ids[:position]``.

    ``stop_id`` is any token that ends an answer: llama.cpp tells nothing where it happens to choose one that ends
    within a character, so that it is made to choose this one.
    """
    options = {"n_probs": most, "logit_bias": [[stop_id, _FORCED]]}
    found = []
    for position in positions:
        [said], _ = await worker.ask(0, layers, ids[:position], 1, options)
        found.append(dict(said.top))
    return found
