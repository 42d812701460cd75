"""``/v1/chat/completions``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from lamina.errors import LaminaError
from lamina.serve.answer import Answer, Piece
from lamina.serve.choices import Work, write_choices
from lamina.serve.engine import Sampling
from lamina.serve.errors import ApiError
from lamina.serve.gateway import Gateway
from lamina.serve.logprobs import chat_logprobs
from lamina.serve.respond import ANSWERS, fingerprint_of, head_of, respond
from lamina.serve.sampling import sampling_of, usage_of
from lamina.serve.stacks import ServedStack
from lamina.serve.tools import Call, calls_schema, find_calls, may_be_call, render_messages
from lamina.serve.wire import ChatRequest, NamedTool, Tool

__all__ = ["chat_router"]

_Delta = tuple[dict[str, Any], Piece, str | None]


def chat_router(gateway: Gateway) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["answers"])

    @router.post("/v1/chat/completions", **ANSWERS)
    async def chat(body: ChatRequest, request: Request) -> Response:
        """Answer a conversation with the stack that ``model`` names, whole or as a stream of events."""
        return await respond(gateway, request, _Turn(gateway, body), stream=bool(body.stream))

    return router


class _Turn:
    """One request on its way to its answer."""

    def __init__(self, gateway: Gateway, body: ChatRequest) -> None:
        """Find the stack, render the messages, and settle how to choose tokens."""
        self._gateway = gateway
        self._body = body
        self._tools: Sequence[Tool] = () if body.tool_choice == "none" else _offered(body)
        self._asked = gateway.stack(body.model, force=body.force)
        try:
            prompt = render_messages(gateway.renderer, body.messages, self._tools)
        except LaminaError as error:
            raise ApiError(400, error.message, param="messages") from error
        self._work = Work(
            prompts=[prompt],
            layers=self._asked.layers,
            sampling=_sampling(gateway, body),
            stops=body.stops,
            count=body.choices,
        )
        self._head = head_of("chatcmpl", body.model)
        gateway.log_prompt(self._head["id"], [message.model_dump(exclude_none=True) for message in body.messages])

    async def settle(self) -> ServedStack:
        """Return the stack that answers, which a branch's router picks by the conversation so far."""
        (prompt,) = self._work.prompts
        stack = await self._gateway.choose(self._asked, prompt)
        self._work = replace(self._work, layers=stack.layers)
        self._head |= fingerprint_of(stack)
        return stack

    async def whole(self) -> dict[str, Any]:
        """Return the response's body."""
        answers = [Answer() for _ in range(self._work.count)]
        async with aclosing(write_choices(self._gateway, self._work)) as pieces:  # type: ignore[type-var]
            async for index, piece in pieces:
                answers[index].add(piece)
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage_of(self._work, sum(answer.count for answer in answers)),
        }

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the stream's events."""
        written = 0
        streams = [_Stream(bool(self._tools)) for _ in range(self._work.count)]
        async with aclosing(write_choices(self._gateway, self._work)) as pieces:  # type: ignore[type-var]
            async for index, piece in pieces:
                written += len(piece.tokens)
                for delta, shown, finish in streams[index].push(piece, self._calls):
                    yield self._chunk([self._delta(index, delta, shown, finish)])
        if self._body.wants_usage:
            yield self._chunk([]) | {"usage": usage_of(self._work, written)}

    def _calls(self, text: str) -> list[Call]:
        return find_calls(text, self._tools) if self._tools else []

    def _choice(self, index: int, answer: Answer) -> dict[str, Any]:
        calls = self._calls(answer.text)
        message: dict[str, Any] = {"role": "assistant", "content": None if calls else answer.text, "refusal": None}
        if calls:
            message["tool_calls"] = [call.to_wire() for call in calls]
        return {
            "index": index,
            "message": message,
            "logprobs": chat_logprobs(answer.tokens, self._gateway.names) if self._body.logprobs else None,
            "finish_reason": "tool_calls" if calls and answer.finish == "stop" else answer.finish,
        }

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        usage = {"usage": None} if self._body.wants_usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": choices} | usage

    def _delta(self, index: int, delta: dict[str, Any], shown: Piece, finish: str | None) -> dict[str, Any]:
        logprobs = chat_logprobs(shown.tokens, self._gateway.names) if self._body.logprobs and shown.tokens else None
        return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


class _Stream:
    """One choice of a stream; what may turn out to be a tool call is held back until that is known."""

    def __init__(self, may_call: bool) -> None:
        self._held = Answer()
        self._holding = may_call
        self._begun = False

    def push(self, piece: Piece, calls_in: Callable[[str], list[Call]]) -> list[_Delta]:
        """Return what to send for ``piece``: deltas with the piece they show and the finish reason."""
        if self._holding:
            self._held.add(piece)
            if piece.finish is None and may_be_call(self._held.text):
                return []
            self._holding = False
            shown = Piece(self._held.text, tuple(self._held.tokens), piece.finish)
            if piece.finish is not None and (calls := calls_in(shown.text)):
                delta = {"tool_calls": [call.to_wire(place) for place, call in enumerate(calls)]}
                return self._close(delta, shown, "tool_calls" if piece.finish == "stop" else piece.finish)
            piece = shown
        if piece.finish is None:
            return [(self._opened({"content": piece.text}), piece, None)]
        return self._close({"content": piece.text} if piece.text else {}, piece, piece.finish)

    def _close(self, delta: dict[str, Any], shown: Piece, finish: str) -> list[_Delta]:
        last: _Delta = ({}, Piece(""), finish)
        return [(self._opened(delta), shown, None), last] if delta or not self._begun else [last]

    def _opened(self, delta: dict[str, Any]) -> dict[str, Any]:
        """Return the delta with the role in front if it is the choice's first."""
        if self._begun:
            return delta
        self._begun = True
        return {"role": "assistant", "content": None if "tool_calls" in delta else ""} | delta


def _offered(body: ChatRequest) -> list[Tool]:
    tools = body.tools or []
    if isinstance(body.tool_choice, NamedTool):
        return [tool for tool in tools if tool.function.name == body.tool_choice.function.name]
    return tools


def _sampling(gateway: Gateway, body: ChatRequest) -> Sampling:
    schema = None
    if body.tool_choice not in (None, "none", "auto"):
        schema = calls_schema(_offered(body))
    elif body.response_format is not None and body.response_format.type != "text":
        named = body.response_format.json_schema
        schema = {"type": "object"} if named is None else named.schema_
    return sampling_of(
        gateway,
        body,
        max_tokens=body.max_completion_tokens or body.max_tokens or gateway.limits.max_tokens,
        top_logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        schema=schema,
    )
