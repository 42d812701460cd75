"""The reference engine: any model that transformers can load, with the layers summed on as in training.

One thread owns the model. It serves the stacks in turn, a few tokens at a time, because putting other layers on costs
time; answers of one stack that arrive together are written together. A batch has a cache of its own from its first
token to its last, so nothing of one stack is ever seen by another.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import torch

from lamina.errors import LaminaError
from lamina.lora.adapter import Adapter
from lamina.lora.surgery import attach, detach
from lamina.model.base import LoadedBase
from lamina.serve.constrain import Binder
from lamina.serve.engine import EngineError, Generation, Layers, RefusedError, Token, written_tokens
from lamina.serve.torch_batch import Batch, Job, Sampler

__all__ = ["TorchEngine"]

_TURN_STEPS = 16
_BATCH_ROWS = 16
_BATCH_TOKENS = 8192
_MOST_ADAPTERS = 64


class TorchEngine:
    """A model held by torch. See ``lamina.serve.engine.Engine``."""

    name = "torch"

    def __init__(self, load: Callable[[], LoadedBase], adapter: Callable[[str], Adapter]) -> None:
        """Use what ``load`` returns as the base, ``adapter`` to read a layer's weights by digest."""
        self.context = 0
        self._load = load
        self._read = adapter
        self._base: LoadedBase | None = None
        self._binder: Binder | None = None
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._active: Layers | None = None
        self._changed = threading.Condition()
        self._inbox: deque[Job | Callable[[], None]] = deque()
        self._worker: threading.Thread | None = None
        self._stopping = False

    async def start(self) -> None:
        """Load the base and start the thread that owns it."""
        base = self._base = await asyncio.to_thread(self._load)
        self.context = base.context
        self._binder = Binder(base.tokenizer, base.stop_ids, int(base.head.weight.shape[0]))
        self._active, self._stopping = None, False
        self._worker = threading.Thread(target=self._work, args=(base,), name="torch-engine", daemon=True)
        self._worker.start()

    async def stop(self) -> None:
        """End the thread and take the layers off; answers in flight end with ``EngineError``."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._worker is not None:
            await asyncio.to_thread(self._worker.join)
        if self._base is not None:
            detach(self._base.model)
        self._worker = self._base = self._binder = None
        self._adapters.clear()

    async def generate(self, request: Generation) -> AsyncIterator[Token]:
        """Yield the answer's tokens as they come."""
        loop, said = asyncio.get_running_loop(), asyncio.Queue[Token | Exception]()
        job = Job(request, lambda item: _post(loop, lambda: said.put_nowait(item)))
        self._give(job)
        try:
            async for token in written_tokens(said):
                yield token
        finally:
            job.cancelled = True

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float] | None:
        """Return the mean of the prompt's last hidden states, of unit length."""
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[list[float]] = loop.create_future()

        def compute() -> None:
            try:
                found = self._embed(prompt, layers)
            except Exception as error:
                failure = _public(error)
                _post(loop, lambda: None if answered.cancelled() else answered.set_exception(failure))
            else:
                _post(loop, lambda: None if answered.cancelled() else answered.set_result(found))

        self._give(compute)
        return await answered

    def _give(self, work: Job | Callable[[], None]) -> None:
        with self._changed:
            if self._stopping or self._worker is None:
                raise EngineError("the engine is not running")
            self._inbox.append(work)
            self._changed.notify()

    def _work(self, base: LoadedBase) -> None:
        """Serve until told to stop; what belongs to one stack stands in one line, and the lines take turns."""
        lines: OrderedDict[Layers, deque[Batch]] = OrderedDict()
        while self._collect(base, lines):
            if not lines:
                continue
            layers, line = lines.popitem(last=False)
            for _ in range(_TURN_STEPS):
                self._step(layers, line[0])
                line.rotate(-1)
                if not line[-1].rows:
                    line.pop()
                if not line or (self._inbox and not lines):
                    break
            if line:
                lines[layers] = line
        for line in lines.values():
            for batch in line:
                batch.fail(EngineError("the engine was stopped"))

    def _step(self, layers: Layers, batch: Batch) -> None:
        try:
            self._activate(layers)
            batch.step()
        except Exception as error:
            batch.fail(_public(error))

    def _collect(self, base: LoadedBase, lines: OrderedDict[Layers, deque[Batch]]) -> bool:
        """Sort what has arrived into lines, waiting if there is nothing to do; return whether to go on."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._inbox or lines or self._stopping))
            arrived, self._inbox = list(self._inbox), deque()
            stopping = self._stopping
        waiting: dict[Layers, list[tuple[Job, Sampler]]] = {}
        for work in arrived:
            if not isinstance(work, Job):
                work()
            elif stopping:
                work.say(EngineError("the engine was stopped"))
            else:
                self._prepare(work, waiting)
        for layers, jobs in waiting.items():
            lines.setdefault(layers, deque()).extend(_batches(base, jobs))
        return not stopping

    def _prepare(self, job: Job, waiting: dict[Layers, list[tuple[Job, Sampler]]]) -> None:
        assert self._binder is not None
        try:
            sampler = Sampler(job.request, self._binder.bind(job.request.sampling))
        except Exception as error:
            job.say(_public(error))
        else:
            waiting.setdefault(job.request.layers, []).append((job, sampler))

    def _activate(self, layers: Layers) -> None:
        if layers == self._active:
            return
        assert self._base is not None
        self._active = None  # whatever fails below, half-attached layers are never taken for whole ones
        attach(self._base.model, [self._adapter(digest) for digest, _ in layers], [scale for _, scale in layers])
        self._active = layers

    def _adapter(self, digest: str) -> Adapter:
        found = self._adapters.pop(digest, None) or self._read(digest)
        self._adapters[digest] = found
        if len(self._adapters) > _MOST_ADAPTERS:
            self._adapters.popitem(last=False)
        return found

    @torch.no_grad()
    def _embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float]:
        assert self._base is not None
        self._activate(layers)
        ids = torch.tensor([prompt], device=self._base.device)
        states = self._base.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        mean = states[0].float().mean(0)
        unit: list[float] = (mean / mean.norm().clamp(min=1e-12)).tolist()
        return unit


def _batches(base: LoadedBase, jobs: list[tuple[Job, Sampler]]) -> list[Batch]:
    """Return the jobs in batches whose padded tokens fit; one by one in families that may not allow padding."""
    batches: list[Batch] = []
    left = sorted(jobs, key=lambda pair: -len(pair[0].request.prompt))
    while left:
        longest = len(left[0][0].request.prompt)
        rows = max(1, min(_BATCH_ROWS, _BATCH_TOKENS // longest)) if base.packed else 1
        batches.append(Batch.of(base, left[:rows]))
        left = left[rows:]
    return batches


def _public(error: Exception) -> Exception:
    """Return what the request ends with: errors that it caused as they are, all others as the engine's."""
    if isinstance(error, RefusedError | LaminaError | EngineError):
        return error
    return EngineError(f"{type(error).__name__}: {error}")


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], Any]) -> None:
    """Run ``call`` in the loop, if it still runs."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
