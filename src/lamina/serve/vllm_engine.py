"""vLLM as the engine, for machines with a GPU: answers of different stacks are computed together.

    generate ──> the whole stack as one adapter, in a folder ──> vLLM, with this request's adapter

vLLM takes one adapter per request, so a stack comes as the exact sum of its layers. It keeps keys and values between
requests, found by the tokens and by the *name and path* of the request's adapter (0.32, v1/core/kv_cache_utils.py,
``_gen_lora_extra_hash_keys``; older ones go by name or id alone), and loaded adapters by their *integer* (0.32,
lora/worker_manager.py, ``add_adapter``). Name and path follow from the layers' digests and scales, and every sum has an
integer of its own, so that neither cache is ever shared by two stacks. The bare base comes without an adapter.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing, suppress
from itertools import count
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from lamina.errors import LaminaError, MachineError
from lamina.serve.engine import EngineError, Generation, Layers, RefusedError, Token, written_tokens
from lamina.serve.vllm_answer import sampling_params, tokens_of

__all__ = ["VllmEngine"]

# Of different adapters: computed together, and kept loaded. A request more waits for a place.
_TOGETHER = 8
_LOADED = 32
_ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",  # it would report this machine to its makers (law 12)
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


class VllmEngine:
    """A base held by vLLM. See ``lamina.serve.engine.Engine``."""

    name = "vllm"

    def __init__(
        self,
        *,
        base: Path,
        adapter: Callable[[Layers, int], Path],
        room: Callable[[], int],
        stop_ids: frozenset[int],
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Serve a base and its layers.

        Args:
            base: its folder, as transformers reads it.
            adapter: returns the PEFT folder of a sum of layers, of at most the given rank, writing it first if need be;
                no two sums have the same. Raises ``RefusedError`` if the rank is larger.
            room: returns the rank that vLLM is to make room for, one of those that it has kernels for.
            stop_ids: tokens that end an answer.
            options: settings of vLLM's own (``AsyncEngineArgs``) that go before the ones chosen here.
        """
        self.context = 0
        self._base = base
        self._adapter = adapter
        self._room = room
        self._rank = 0
        self._stop_ids = stop_ids
        self._options = dict(options or {})
        self._engine: Any = None
        self._ids: dict[Layers, int] = {}
        self._numbers = count()
        self._answers: dict[asyncio.Task[None], asyncio.Queue[Token | Exception]] = {}

    async def start(self) -> None:
        """Load the base, in 16 bits unless the machine or ``options`` want otherwise; takes a minute."""
        self._rank = await asyncio.to_thread(self._room)
        await asyncio.to_thread(self._launch)
        self.context = self._engine.model_config.max_model_len

    async def stop(self) -> None:
        """End vLLM's processes; answers in flight end with ``EngineError``."""
        engine, self._engine = self._engine, None
        tasks = dict(self._answers)
        for task, said in tasks.items():
            said.put_nowait(EngineError("the engine was stopped"))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)
            del engine, tasks
            gc.collect()  # vLLM's parts hold each other: what is not freed now complains when the interpreter ends
        self._ids.clear()

    async def generate(self, request: Generation) -> AsyncIterator[Token]:
        """Yield the answer's tokens as they come."""
        engine = self._engine
        if engine is None:
            raise EngineError("the engine is not running")
        params = sampling_params(request.sampling, self._stop_ids)
        said: asyncio.Queue[Token | Exception] = asyncio.Queue()
        task = asyncio.create_task(self._write(engine, request, params, said))
        self._answers[task] = said
        try:
            async for token in written_tokens(said):
                yield token
        finally:
            del self._answers[task]
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float] | None:
        """Return None: a vLLM that generates gives no hidden states."""
        del prompt, layers
        return None

    def _launch(self) -> None:
        """Set ``_engine``; returned, it would never be freed: an import that fails below keeps the frames above it."""
        os.environ.update(_ENVIRONMENT)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of every weight that it rounds to 16 bits
        try:
            from vllm import AsyncEngineArgs
            from vllm.config import StructuredOutputsConfig
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise MachineError(
                f"vllm is installed, and cannot be loaded: {error}",
                hint="install it into an environment of its own, with the torch that it wants; 0.32 is known to work",
            ) from error
        chosen = {
            "model": str(self._base),
            "max_model_len": -1,  # as long as the base allows and memory holds
            "enable_lora": True,
            "max_lora_rank": self._rank,
            "max_loras": _TOGETHER,
            "max_cpu_loras": _LOADED,
            "structured_outputs_config": StructuredOutputsConfig(backend="guidance"),
            "disable_log_stats": True,
        }
        # Ctrl-C reaches every process of a terminal. Those of vLLM, which are born here, must outlive it: answers in
        # flight are written to their end. The tracker, which would be born between, unblocks what it finds blocked.
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**chosen | self._options))
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    async def _write(
        self, engine: Any, request: Generation, params: Any, said: asyncio.Queue[Token | Exception]
    ) -> None:
        from vllm.inputs import tokens_input

        try:
            adapter = await self._load(engine, request.layers)
            prompt = tokens_input(list(request.prompt))  # ``TokensPrompt`` takes a way in that vLLM means to remove
            answer = engine.generate(prompt, params, str(next(self._numbers)), lora_request=adapter)
            async with aclosing(answer) as pieces:
                async for piece in pieces:
                    for token in tokens_of(piece.outputs[0], request.sampling, self._stop_ids):
                        said.put_nowait(token)
        except Exception as error:
            said.put_nowait(_public(error, engine))

    async def _load(self, engine: Any, layers: Layers) -> Any:
        """Return vLLM's request for the layers, which are loaded then; None for the bare base.

        Loaded before the answer begins, each time: an adapter that cannot be read while others are computed with would
        end vLLM's process.
        """
        from vllm.lora.request import LoRARequest

        active = tuple((digest, scale) for digest, scale in layers if scale)
        if not active:
            return None
        folder = await asyncio.to_thread(self._adapter, active, self._rank)
        number = self._ids.setdefault(active, len(self._ids) + 1)
        adapter = LoRARequest(lora_name=folder.name, lora_int_id=number, lora_path=str(folder))
        await engine.add_lora(adapter)
        return adapter


def _public(error: Exception, engine: Any) -> Exception:
    """Return what the request ends with: errors that it caused as they are, all others as the engine's."""
    from vllm.exceptions import VLLMClientError

    if isinstance(error, RefusedError | LaminaError | EngineError):
        return error
    if isinstance(error, VLLMClientError):
        return RefusedError(str(error))
    return EngineError(f"{type(error).__name__}: {error}", lost=engine.errored)
