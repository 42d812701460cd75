"""What stands between HTTP and the engine: names become layers, messages become ids, and everyone gets a turn."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from lamina.data.render import Renderer
from lamina.errors import LaminaError
from lamina.serve.answer import Piece, write_answer
from lamina.serve.engine import Engine, EngineError, Generation, Layers, RefusedError, Sampling, Token
from lamina.serve.errors import ApiError
from lamina.serve.limits import FairQueue, Limits, Ticket
from lamina.serve.logprobs import TokenNames
from lamina.serve.metrics import Metrics
from lamina.serve.routing import PromptRouter, Routing
from lamina.serve.stacks import ServedStack, Stacks, UnknownStackError

__all__ = ["Gateway"]

_LOG = logging.getLogger("lamina.serve")
_LONGEST_PAUSE_S = 30.0
_MOST_LISTED = 50


class Gateway:
    """One engine, the stacks it serves, and the queue in front of it."""

    def __init__(
        self,
        engine: Engine,
        stacks: Stacks,
        renderer: Renderer,
        limits: Limits,
        *,
        routing: Routing,
        log_prompts: bool = False,
    ) -> None:
        """Bring them together; ``start`` loads the engine. Prompts reach the log only with ``log_prompts``."""
        self.engine = engine
        self.stacks = stacks
        self.renderer = renderer
        self.limits = limits
        self.metrics = Metrics()
        self.names = TokenNames(renderer.tokenizer)
        self.queue = FairQueue(limits.parallel, limits.queue)
        self.state: Literal["stopped", "ready", "restarting"] = "stopped"
        self._decode = _decoder(renderer)
        self._routing = routing
        self._log_prompts = log_prompts
        self._restart: asyncio.Task[None] | None = None
        self.metrics.watch_queue(lambda: self.queue.waiting)

    async def start(self) -> None:
        """Load the engine.

        Raises:
            EngineError, LaminaError: if it cannot be loaded.
        """
        await self.engine.start()
        self.state = "ready"

    async def stop(self) -> None:
        """Let go of the engine."""
        self.state = "stopped"
        if self._restart is not None:
            self._restart.cancel()
            with suppress(asyncio.CancelledError):
                await self._restart
        await self.engine.stop()

    def stack(self, name: str, *, force: bool = False) -> ServedStack:
        """Return the stack that a request's ``model`` means; its layers are what the whole request is answered with.

        Raises:
            ApiError: 404 with the known names if there is no such stack, 400 if its layers do not belong together.
        """
        try:
            return self.stacks.resolve(name, force=force)
        except UnknownStackError as error:
            names = [stack.name for stack in self.stacks.all()]
            listed = ", ".join(names[:_MOST_LISTED]) + (", ..." if len(names) > _MOST_LISTED else "")
            said = f"{self.stacks.public(error)} (models: {listed})"
            raise ApiError(404, said, code="model_not_found", param="model") from error
        except LaminaError as error:
            raise ApiError(400, self.stacks.public(error), code="stack_refused", param="model") from error

    def router(self, stack: ServedStack) -> PromptRouter | None:
        """Return what picks layers for prompts to ``stack``; None if all of them answer."""
        try:
            return self._routing(stack)
        except LaminaError as error:
            _LOG.warning("all layers of '%s' answer: %s", stack.name, error.message)
            return None

    async def choose(self, stack: ServedStack, prompt: Sequence[int]) -> ServedStack:
        """Return the stack that answers ``prompt``: what the router of ``stack`` picks, else ``stack`` itself.

        All layers are always an answer, so that whatever keeps the router from choosing is only logged.

        Raises:
            ApiError: 400, if the prompt leaves no room for an answer.
        """
        router = self.router(stack)
        if router is None:
            return stack
        self.check_prompt(prompt)
        try:
            (point,) = await self.embed([prompt[-min(router.reads, self.engine.context - 1) :]], ())
            return router.pick(point)
        except (ApiError, EngineError, RefusedError, LaminaError) as error:
            _LOG.warning("all layers of '%s' answer: %s", stack.name, error)
            return stack

    def tokenise(self, texts: str | list[str] | list[int] | list[list[int]], param: str) -> list[list[int]]:
        """Return the ids of one text or several, which may be ids already; each begins as the tokenizer begins a text.

        Raises:
            ApiError: 400, if an id is none of the vocabulary.
        """
        if isinstance(texts, str) or (texts and isinstance(texts[0], int)):
            texts = [texts]  # type: ignore[assignment]
        start = self.renderer.bos()
        found: list[list[int]] = []
        for text in texts:
            if isinstance(text, str):
                found.append([*start, *self.renderer.tokenizer.encode(text, add_special_tokens=False)])
            else:
                self.check_ids(text, param)  # type: ignore[arg-type]
                found.append(list(text))  # type: ignore[arg-type]
        return found

    def check_ids(self, ids: Sequence[int], param: str) -> None:
        """Check that ``ids`` are tokens.

        Raises:
            ApiError: 400, naming the first that is none.
        """
        for token in ids:
            if not 0 <= token < self.names.count:
                raise ApiError(400, f"'{param}': {token} is not a token id below {self.names.count}", param=param)

    def log_prompt(self, answer_id: str, prompt: object) -> None:
        """Put a prompt into the log, if the owner of this server wants that."""
        if self._log_prompts:
            _LOG.info("%s %s", answer_id, json.dumps(prompt, ensure_ascii=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, without special tokens."""
        return self._decode(ids)

    def check_prompt(self, prompt: Sequence[int]) -> int:
        """Return how many tokens the context leaves for the answer.

        Raises:
            ApiError: 400, if it leaves none, or the prompt is empty.
        """
        if not prompt:
            raise ApiError(400, "the prompt is empty")
        room = self.engine.context - len(prompt)
        if room < 1:
            raise ApiError(
                400,
                f"this model's context is {self.engine.context} tokens; the prompt has {len(prompt)}, "
                "which leaves no room for an answer",
                code="context_length_exceeded",
                param="messages",
            )
        return room

    def draw(self, layers: Layers, count: int) -> list[Ticket]:
        """Return a ticket for each of ``count`` answers.

        Raises:
            ApiError: 429, if too many wait already; 503, if the engine is not running.
        """
        if self.state != "ready":
            raise ApiError(503, "the engine is starting; try again in a moment", code="engine_unavailable", retry=True)
        return self.queue.draw(layers, count)

    async def answer(
        self, ticket: Ticket, prompt: Sequence[int], sampling: Sampling, stops: Sequence[str]
    ) -> AsyncIterator[Piece]:
        """Yield one answer's pieces once it is the ticket's turn; the place is given back at the end, however it comes.

        Raises:
            EngineError, RefusedError, LaminaError: from the engine.
        """
        room = self.check_prompt(prompt)
        capped = replace(sampling, max_tokens=min(sampling.max_tokens, room, self.limits.max_tokens))
        request = Generation(prompt=tuple(prompt), layers=ticket.layers, sampling=capped)
        async with ticket, aclosing(write_answer(self, request, stops)) as pieces:  # type: ignore[type-var]
            async for piece in pieces:
                yield piece

    async def generate(self, request: Generation) -> AsyncIterator[Token]:
        """Yield the engine's tokens; an engine that is lost on the way is started again."""
        self.metrics.begin(len(request.prompt))
        try:
            async with aclosing(self.engine.generate(request)) as tokens:  # type: ignore[type-var]
                async for token in tokens:
                    self.metrics.token(token)
                    yield token
        except EngineError as error:
            _LOG.error("engine: %s", error)
            if error.lost and self.state == "ready":
                self.state = "restarting"
                self._restart = asyncio.create_task(self._start_again())
            raise
        finally:
            self.metrics.end()

    async def embed(self, prompts: Sequence[Sequence[int]], layers: Layers) -> list[list[float]]:
        """Return the embedding of each prompt.

        Raises:
            ApiError: 501, if this engine has none; 429, if too many requests wait already.
        """
        for prompt in prompts:
            self.check_prompt(prompt)
        (ticket,) = self.draw(layers, 1)
        vectors: list[list[float]] = []
        async with ticket:
            for prompt in prompts:
                found = await self.engine.embed(tuple(prompt), layers)
                if found is None:
                    raise ApiError(501, f"the engine '{self.engine.name}' gives no embeddings", code="not_implemented")
                vectors.append(found)
        return vectors

    async def _start_again(self) -> None:
        pause = 0.0
        while True:
            await asyncio.sleep(pause)
            self.metrics.restarts.inc()
            try:
                await self.engine.stop()
                await self.engine.start()
            except (EngineError, LaminaError) as error:
                _LOG.error("engine: not restarted: %s", error)
                pause = min(2 * pause + 0.5, _LONGEST_PAUSE_S)
            else:
                self.state = "ready"
                return


def _decoder(renderer: Renderer) -> Callable[[Sequence[int]], str]:
    """Return ``renderer.text``, without transformers' part of it where that adds nothing but time, twice per token."""
    tokenizer: Any = renderer.tokenizer
    if tokenizer.is_fast and not tokenizer.clean_up_tokenization_spaces:
        return partial(tokenizer.backend_tokenizer.decode, skip_special_tokens=True)
    return renderer.text
