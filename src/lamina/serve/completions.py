"""``/v1/completions``: running text, without a chat template."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lamina.serve.answer import Answer
from lamina.serve.choices import Work, write_choices
from lamina.serve.engine import Token
from lamina.serve.gateway import Gateway
from lamina.serve.logprobs import completion_logprobs
from lamina.serve.respond import ANSWERS, fingerprint_of, head_of, respond
from lamina.serve.sampling import sampling_of, usage_of
from lamina.serve.stacks import ServedStack
from lamina.serve.wire import CompletionRequest

__all__ = ["completion_router"]

_DEFAULT_TOKENS = 16


def completion_router(gateway: Gateway) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["answers"])

    @router.post("/v1/completions", **ANSWERS)
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Go on with a text, or with each of several."""
        return await respond(gateway, request, _Turn(gateway, body), stream=bool(body.stream))

    return router


class _Turn:
    """One request on its way to its answer."""

    def __init__(self, gateway: Gateway, body: CompletionRequest) -> None:
        """Find the stack, tokenise the prompts, and settle how to choose tokens."""
        self._gateway = gateway
        self._body = body
        self._stack = gateway.stack(body.model, force=body.force)
        self._work = Work(
            prompts=gateway.tokenise(body.prompt, "prompt"),
            layers=self._stack.layers,
            sampling=sampling_of(
                gateway, body, max_tokens=body.max_tokens or _DEFAULT_TOKENS, top_logprobs=body.logprobs
            ),
            stops=body.stops,
            count=body.choices,
        )
        self._head = head_of("cmpl", body.model) | fingerprint_of(self._stack) | {"object": "text_completion"}
        gateway.log_prompt(self._head["id"], body.prompt)

    async def settle(self) -> ServedStack:
        """Return the stack that was asked for: routers know conversations, not running text."""
        return self._stack

    async def whole(self) -> dict[str, Any]:
        """Return the response's body."""
        answers = [Answer() for _ in range(len(self._work.prompts) * self._work.count)]
        async with aclosing(write_choices(self._gateway, self._work)) as pieces:  # type: ignore[type-var]
            async for index, piece in pieces:
                answers[index].add(piece)
        choices = [self._choice(index, a.text, a.tokens, 0, a.finish) for index, a in enumerate(answers)]
        return self._head | {"choices": choices, "usage": usage_of(self._work, sum(a.count for a in answers))}

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the stream's events."""
        written, usage = 0, {"usage": None} if self._body.wants_usage else {}
        offsets = [0] * (len(self._work.prompts) * self._work.count)
        async with aclosing(write_choices(self._gateway, self._work)) as pieces:  # type: ignore[type-var]
            async for index, piece in pieces:
                written += len(piece.tokens)
                choice = self._choice(index, piece.text, list(piece.tokens), offsets[index], piece.finish)
                offsets[index] += len(piece.text)
                yield self._head | {"choices": [choice]} | usage
        if self._body.wants_usage:
            yield self._head | {"choices": [], "usage": usage_of(self._work, written)}

    def _choice(self, index: int, text: str, tokens: list[Token], offset: int, finish: str | None) -> dict[str, Any]:
        wanted = self._body.logprobs is not None
        logprobs = completion_logprobs(tokens, self._gateway.names, offset) if wanted else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
