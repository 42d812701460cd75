"""A running llama.cpp, spoken to over a Unix socket that nobody else can reach."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamina.serve.engine import EngineError, Layers, RefusedError
from lamina.serve.llama_http import GONE, post
from lamina.serve.llama_turns import Slots, Turns

__all__ = ["Ended", "Said", "Worker", "WorkerSettings"]

_START_S = 600
_STOP_S = 5
_OK, _REFUSED = 200, 400
# Threads that wait for each other spin a few microseconds and then sleep: to sleep at once halves the speed of a quiet
# machine, to spin on is several times slower where anything else wants the processor (bench/llama_waiting.py).
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "300"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What every process of one engine has in common.

    Attributes:
        model: the base's GGUF file.
        slots: how many answers have a place in memory.
        context: longest prompt and answer of each, in tokens.
        threads: that compute.
        embeds: whether it gives embeddings too, for which every prompt is read at once.
    """

    model: Path
    slots: int
    context: int
    threads: int
    embeds: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """One token as llama.cpp reports it.

    Attributes:
        logprob, top: None and empty where they were not asked for, or llama.cpp does not tell them: of a token that
            ends within a character.
        hidden: whether it has no text, as the end of a turn has none.
        count: how many tokens of this turn there are with it; llama.cpp leaves out those that end within a character.
    """

    id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...]
    hidden: bool
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a turn of ``count`` tokens: whether the last of them ends the answer by llama.cpp's rules."""

    at_stop: bool
    count: int


class Worker:
    """One process with some layers loaded."""

    def __init__(self, settings: WorkerSettings, adapters: Mapping[Layers, Path]) -> None:
        """Prepare a process that can use the layers in ``adapters``: files of single ones, and of sums of some."""
        self.turns = Turns()
        self.slots = Slots(settings.slots)
        self.users = 0
        self._lost = False
        self._settings = settings
        self._adapters = dict(adapters)
        self._places = {layers: place for place, layers in enumerate(self._adapters)}
        self._folder = tempfile.TemporaryDirectory(prefix="lamina-llama-")
        self._process: asyncio.subprocess.Process | None = None
        self._socket = Path(self._folder.name) / "llama.sock"  # the ending tells llama.cpp that it is no host

    @property
    def context(self) -> int:
        """Longest prompt and answer together, in tokens."""
        return self._settings.context

    @property
    def alive(self) -> bool:
        """Whether the process runs and has answered so far."""
        return not self._lost and self._process is not None and self._process.returncode is None

    @property
    def loaded(self) -> Collection[Layers]:
        """The layers, and sums of some, that have an adapter here."""
        return self._places

    def holds(self, layers: Layers) -> bool:
        """Return whether the layers are one adapter here: one layer at any scale, or a sum that is loaded."""
        return len(layers) <= 1 or layers in self._places

    def knows(self, layers: Layers) -> bool:
        """Return whether all layers are loaded."""
        return layers in self._places or all(((digest, 1.0),) in self._places for digest, _ in layers)

    async def start(self) -> None:
        """Start the process and wait until the model is loaded.

        Raises:
            EngineError: if it ends before that.
        """
        folder = Path(self._folder.name)
        told = {
            "model": str(self._settings.model),
            "adapters": [str(path) for path in self._adapters.values()],
            "slots": self._settings.slots,
            "context": self._settings.context,
            "threads": self._settings.threads,
            "embeds": self._settings.embeds,
            "socket": str(self._socket),
        }
        with (folder / "log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "lamina.serve.llama_child",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**_WAITING, **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        try:
            await self._wait_until_ready(json.dumps(told).encode())
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the process; what it is answering ends with ``EngineError``."""
        process = self._process
        if process is not None and process.returncode is None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        self._folder.cleanup()

    async def stream(
        self, slot: int, layers: Layers, prompt: Sequence[int], count: int, options: Mapping[str, Any]
    ) -> AsyncIterator[Said | Ended]:
        """Yield at most ``count`` tokens that follow ``prompt``, then the end. Closing the iterator ends the work.

        Raises:
            EngineError: if the process ends.
            RefusedError: if llama.cpp refuses the request.
        """
        body = self._body(slot, layers, prompt, count, options) | {"stream": True}
        try:
            async with post(self._socket, "/completion", body) as reply:
                if reply.status != _OK:
                    raise _failure(reply.status, await reply.body())
                async with aclosing(reply.lines()) as lines:  # type: ignore[type-var]
                    async for line in lines:
                        for event in _events(line):
                            yield event
        except GONE as error:
            raise await self._gone(error) from error

    async def ask(
        self, slot: int, layers: Layers, prompt: Sequence[int], count: int, options: Mapping[str, Any]
    ) -> tuple[list[Said], Ended]:
        """Return at most ``count`` tokens that follow ``prompt``, all of them, and the end.

        Raises:
            EngineError: if the process ends.
            RefusedError: if llama.cpp refuses the request.
        """
        event = await self._post("/completion", self._body(slot, layers, prompt, count, options))
        weighed = iter(event.get("completion_probabilities", ()))
        found = next(weighed, None)
        all_said = []
        for count_so_far, token in enumerate(event["tokens"], 1):
            own = found if found is not None and found["id"] == token else None
            all_said.append(_said(token, own or {}, hidden=False, count=count_so_far))
            found = next(weighed, None) if own is not None else found
        return all_said, _ended(event)

    async def embed(self, layers: Layers, prompt: Sequence[int]) -> list[float]:
        """Return the mean of the prompt's last hidden states, of unit length; one call at a time.

        llama.cpp takes no layers with such a request, so that they are set for the whole process ahead of it.

        Raises:
            EngineError: if the process ends.
            RefusedError: if llama.cpp refuses the request.
        """
        if self._places:
            await self._post("/lora-adapters", self._lora(layers)["lora"])
        found = await self._post("/v1/embeddings", {"input": list(prompt)})
        vector: list[float] = found["data"][0]["embedding"]
        return vector

    async def _post(self, path: str, body: Any) -> Any:
        try:
            async with post(self._socket, path, body) as reply:
                found = await reply.body()
        except GONE as error:
            raise await self._gone(error) from error
        if reply.status != _OK:
            raise _failure(reply.status, found)
        return json.loads(found)

    def _body(
        self, slot: int, layers: Layers, prompt: Sequence[int], count: int, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        kept = {"id_slot": slot, "cache_prompt": True, "return_tokens": True}
        return {"prompt": list(prompt), "n_predict": count, **kept, **self._lora(layers), **options}

    async def _gone(self, error: Exception) -> EngineError:
        self._lost = True
        return EngineError(f"llama.cpp went away: {type(error).__name__}{await self._last_words()}")

    def _lora(self, layers: Layers) -> dict[str, Any]:
        """Return the scales of the layers. Without any named, llama.cpp would keep a cache that others computed."""
        if not self._places:
            return {}
        scales = {0: 0.0}
        if layers in self._places:
            scales[self._places[layers]] = 1.0
        else:
            for digest, scale in layers:
                place = self._places[((digest, 1.0),)]
                scales[place] = scales.get(place, 0.0) + scale
        return {"lora": [{"id": place, "scale": scale} for place, scale in sorted(scales.items())]}

    async def _wait_until_ready(self, told: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(ConnectionError, TimeoutError):
            self._process.stdin.write(told + b"\n")
            await self._process.stdin.drain()
            if (await asyncio.wait_for(self._process.stdout.readline(), _START_S)).startswith(b"ready"):
                return
        raise EngineError(f"llama.cpp did not start{await self._last_words()}")

    async def _last_words(self) -> str:
        try:
            lines = await asyncio.to_thread((Path(self._folder.name) / "log").read_text, "utf-8", "replace")
        except OSError:
            return ""
        # The first error is the reason, those that follow are its consequences.
        told = [line.partition(" E ")[2].strip() for line in lines.splitlines() if " E " in line]
        return "".join(f": {line}" for line in told[:1])


def _events(line: bytes) -> list[Said | Ended]:
    if line.startswith(b"error:"):
        raise EngineError(f"llama.cpp failed: {line.removeprefix(b'error:').decode('utf-8', 'replace').strip()}")
    if not line.startswith(b"data:"):
        return []
    event = json.loads(line.removeprefix(b"data:"))
    if "error" in event:
        raise EngineError(f"llama.cpp failed: {event['error'].get('message')}")
    if event["stop"]:
        return [_ended(event)]
    weighed = event.get("completion_probabilities") or [{}]
    return [_said(event["tokens"][-1], weighed[-1], hidden=not event["content"], count=event["tokens_predicted"])]


def _said(token: int, found: Mapping[str, Any], *, hidden: bool, count: int) -> Said:
    top = tuple((other["id"], other["logprob"]) for other in found.get("top_logprobs", ()))
    return Said(token, found.get("logprob"), top, hidden, count)


def _ended(event: Mapping[str, Any]) -> Ended:
    return Ended(event["stop_type"] == "eos", event["tokens_predicted"])


def _failure(status: int, body: bytes) -> EngineError | RefusedError:
    try:
        message = str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"status {status}"
    return RefusedError(message) if status == _REFUSED else EngineError(f"llama.cpp refused: {message}")
