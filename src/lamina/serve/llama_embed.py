"""Embeddings from llama.cpp: a second process on the same mapped weights, started on first use.

The one that writes answers could give them too, but would lose a slot's cache to each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lamina.serve.engine import EngineError, Layers, RefusedError
from lamina.serve.llama_worker import Worker, WorkerSettings

__all__ = ["EMBEDDED_TOKENS", "Embedder"]

# llama.cpp reads a text that it embeds at once, and computes the odds of every next token on the way: 8 bytes for each
# entry of the vocabulary and each token of the longest text so far.
EMBEDDED_TOKENS = 2048


class Embedder:
    """The embeddings of one engine, computed one after the other."""

    def __init__(self, settings: WorkerSettings, files: Callable[[Layers], Awaitable[Mapping[Layers, Path]]]) -> None:
        """Serve what ``settings`` say; ``files`` writes those of single layers that are to be loaded."""
        context = min(settings.context, EMBEDDED_TOKENS)
        self._settings = replace(settings, slots=1, context=context, embeds=True)
        self._write = files
        self._files: dict[Layers, Path] = {}
        self._worker: Worker | None = None
        self._is_stopped = False
        self._turn = asyncio.Lock()
        self._changing = asyncio.Lock()

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float]:
        """Return the mean of the prompt's last hidden states, of unit length.

        Raises:
            EngineError: if the process cannot be started or ends on the way.
            RefusedError: if the prompt is too long.
            LaminaError: if a layer's weights are missing or do not fit the base.
        """
        if len(prompt) > self._settings.context:
            raise RefusedError(
                f"llama.cpp embeds texts of up to {self._settings.context} tokens; this one has {len(prompt)}: "
                "send it in parts, or serve with --engine torch"
            )
        async with self._turn:
            return await (await self._worker_for(layers)).embed(layers, prompt)

    async def stop(self) -> None:
        """End the process; what it is computing ends with ``EngineError``."""
        self._is_stopped = True
        async with self._changing:
            await self._end()

    async def _worker_for(self, layers: Layers) -> Worker:
        """Return a running process that has the layers loaded, in place of one that has not."""
        async with self._changing:
            worker = self._worker
            if worker is not None and worker.alive and worker.knows(layers):
                return worker
            if self._is_stopped:
                raise EngineError("the engine is not running")
            self._files |= await self._write(layers)
            await self._end()
            worker = Worker(self._settings, self._files)
            await worker.start()
            self._worker = worker
            return worker

    async def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()
