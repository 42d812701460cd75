"""The default engine: llama.cpp through xllamacpp, the base in 16 bits, layers as LoRA adapters with a scale each.

    generate ──> a slot of its own ──> turns of 16 tokens ──> llama.cpp, with this request's layers

llama.cpp writes answers of one stack together, and lets answers of other stacks wait until the last of them has ended.
So answers are written in short turns, between which stacks take turns; a slot keeps its cache from turn to turn, so
that a turn costs a request on a local socket and no token is computed twice. Layers can be loaded only at the start:
where one appears that is not loaded, a second process starts with it and takes what is new, and the first ends with its
last stream. So it is, behind the answers, with a sum that is asked for again: as one adapter it is faster than as its
parts. All processes map the same file of weights, also the one for embeddings (``llama_embed``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from lamina.errors import LaminaError
from lamina.serve.engine import EngineError, Generation, Layers, Token, written_tokens
from lamina.serve.grammar import grammar_of
from lamina.serve.llama_answer import Answer
from lamina.serve.llama_embed import Embedder
from lamina.serve.llama_sums import AskedSums
from lamina.serve.llama_worker import Worker, WorkerSettings

__all__ = ["LlamaEngine"]

_LOG = logging.getLogger("lamina.serve")
_T = TypeVar("_T")
_SLOTS = 4
_MOST_CONTEXT = 8192
_MOST_SUMS = 8


class LlamaEngine:
    """A base held by llama.cpp. See ``lamina.serve.engine.Engine``."""

    name = "llama.cpp"

    def __init__(
        self,
        *,
        base: Callable[[], Path],
        adapter: Callable[[Layers, Path], None],
        known: Callable[[], Iterable[Layers]],
        stop_ids: frozenset[int],
        context: int,
        slots: int = _SLOTS,
        threads: int | None = None,
    ) -> None:
        """Serve a base and its layers.

        Args:
            base: returns its GGUF file, writing it first if need be.
            adapter: writes the GGUF file of a layer, or of the sum of some.
            known: returns the stacks to load ahead of their first use, those that matter most first. Their sums are
                loaded as well, as far as there is room for them: one adapter is faster than its parts.
            stop_ids: tokens that end an answer.
            context: longest input that the base is exact for; memory is set aside for 8,192 tokens per slot at most.
            slots: answers that have a place in memory at the same time; more wait.
            threads: that compute; None takes ``$OMP_NUM_THREADS``, or else one per processor.
        """
        self.context = min(context, _MOST_CONTEXT)
        self._base = base
        self._adapter = adapter
        self._known = known
        self._stop_ids = stop_ids
        self._slots = slots
        self._threads = threads or int(os.environ.get("OMP_NUM_THREADS") or 0) or len(os.sched_getaffinity(0))
        self._files: dict[Layers, Path] = {}
        self._numbers = count()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._settings: WorkerSettings | None = None
        self._worker: Worker | None = None
        self._workers: set[Worker] = set()  # it, and those that end with their last stream
        self._embedder: Embedder | None = None
        self._sums = AskedSums()
        self._changing = asyncio.Lock()
        self._behind: set[asyncio.Task[Any]] = set()

    async def start(self) -> None:
        """Load the base and all known layers."""
        self._folder = tempfile.TemporaryDirectory(prefix="lamina-adapters-")
        model = await asyncio.to_thread(self._base)
        self._settings = WorkerSettings(model=model, slots=self._slots, context=self.context, threads=self._threads)
        self._embedder = Embedder(self._settings, lambda layers: asyncio.shield(self._do_behind(self._singles(layers))))
        await self._worker_for(())

    async def stop(self) -> None:
        """End all processes; answers in flight end with ``EngineError``."""
        self._settings = None
        async with self._changing:
            workers, self._workers, self._worker = self._workers, set(), None
            embedder, self._embedder = self._embedder, None
        for worker in workers:
            await worker.stop()
        if embedder is not None:
            await embedder.stop()
        await asyncio.gather(*self._behind, return_exceptions=True)
        self._files.clear()
        self._sums = AskedSums()
        if self._folder is not None:
            self._folder.cleanup()

    async def generate(self, request: Generation) -> AsyncIterator[Token]:
        """Yield the answer's tokens as they come."""
        grammar = grammar_of(request.sampling)
        said: asyncio.Queue[Token | Exception] = asyncio.Queue()
        task = asyncio.create_task(self._write(request, grammar, said))
        try:
            async for token in written_tokens(said):
                yield token
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float] | None:
        """Return the mean of the prompt's last hidden states, of unit length."""
        if self._embedder is None:
            raise EngineError("the engine is not running")
        return await self._embedder.embed(prompt, layers)

    async def _write(self, request: Generation, grammar: str | None, said: asyncio.Queue[Token | Exception]) -> None:
        try:
            async with self._using(request.layers) as worker, worker.slots.take(request.layers, request.prompt) as slot:
                await Answer(worker, slot, request, grammar=grammar, stop_ids=self._stop_ids).write(said.put_nowait)
        except Exception as error:
            said.put_nowait(error)

    @asynccontextmanager
    async def _using(self, layers: Layers) -> AsyncIterator[Worker]:
        worker = await self._worker_for(layers)
        if not worker.holds(layers) and self._sums.is_due(layers, asyncio.get_running_loop().time()):
            self._do_behind(self._load_sum(layers))
        worker.users += 1
        try:
            yield worker
        finally:
            worker.users -= 1
            if worker is not self._worker and worker.users == 0:
                self._dismiss(worker)

    async def _worker_for(self, layers: Layers) -> Worker:
        """Return a running process that has the layers loaded, starting one if there is none.

        A start goes on to its end even where the request that needs it is cancelled, as the thread that writes does.
        """
        if (worker := self._usable(layers)) is not None:
            return worker
        return await asyncio.shield(self._do_behind(self._started_for(layers)))

    async def _started_for(self, layers: Layers) -> Worker:
        async with self._changing:
            if (worker := self._usable(layers)) is not None:
                return worker
            if self._settings is None:
                raise EngineError("the engine is not running")
            await asyncio.to_thread(self._write_files, layers)
            return await self._replace(self._settings)

    async def _replace(self, settings: WorkerSettings) -> Worker:
        """Start a process with all files that there are; it takes what comes from now on.

        Raises:
            EngineError: if it does not start, maybe for a file that it was the first to read: those are let go.
        """
        worker, old = Worker(settings, self._files), self._worker
        try:
            await worker.start()
        except EngineError as error:
            for untried in self._files.keys() - (old.loaded if old is not None else ()):
                self._files.pop(untried).unlink()
            raise EngineError(str(error), lost=old is None or not old.alive) from error
        self._worker = worker
        self._workers.add(worker)
        if old is not None and old.users == 0:
            self._dismiss(old)
        return worker

    async def _load_sum(self, layers: Layers) -> None:
        async with self._changing:
            if self._settings is None:
                return
            self._sums.keep(layers)
            try:
                await asyncio.to_thread(self._write_files, layers)
                await self._replace(self._settings)
            except (EngineError, LaminaError) as error:
                self._sums.drop(layers)  # its parts go on answering
                _LOG.warning("a sum is not loaded: %s", error)

    def _usable(self, layers: Layers) -> Worker | None:
        worker = self._worker
        return worker if worker is not None and worker.alive and worker.knows(layers) else None

    async def _singles(self, layers: Layers) -> Mapping[Layers, Path]:
        """Return the files of the single layers of a stack."""
        async with self._changing:
            if self._settings is None:
                raise EngineError("the engine is not running")
            await asyncio.to_thread(self._write_files, layers)
            return {single: self._files[single] for single in (((digest, 1.0),) for digest, _ in layers)}

    def _write_files(self, layers: Layers) -> None:
        """Write what is to be loaded: every layer that is known or asked for, and the sums of known stacks.

        What cannot be written of the known ones is left out: it is told to whoever asks for it.

        Raises:
            LaminaError: if the weights of ``layers`` are missing or do not fit the base.
        """
        assert self._folder is not None
        stacks = list(dict.fromkeys(self._known()))
        sums = [*[stack for stack in stacks if len(stack) > 1][:_MOST_SUMS], *self._sums.kept]
        singles = [((digest, 1.0),) for stack in stacks for digest, _ in stack]
        for old in [held for held in self._files if len(held) > 1 and held not in sums]:
            self._files.pop(old).unlink()
        for digest, _ in layers:
            self._write_file(((digest, 1.0),))
        for known in dict.fromkeys([*singles, *sums]):
            try:
                self._write_file(known)
            except LaminaError as error:
                _LOG.warning("not loaded: %s", error.message)

    def _write_file(self, layers: Layers) -> None:
        assert self._folder is not None
        if layers not in self._files:
            path = Path(self._folder.name) / f"{next(self._numbers)}.gguf"
            self._adapter(layers, path)
            self._files[layers] = path

    def _dismiss(self, worker: Worker) -> None:
        self._workers.discard(worker)
        self._do_behind(worker.stop())

    def _do_behind(self, work: Coroutine[None, None, _T]) -> asyncio.Task[_T]:
        task = asyncio.create_task(work)
        self._behind.add(task)
        task.add_done_callback(self._behind.discard)
        return task
