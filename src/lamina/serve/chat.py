"""``/v1/chat/completions``."""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import Any

from fastapi import APIRouter

from lamina.errors import LaminaError
from lamina.records import Message
from lamina.serve.answer import Answer, collect
from lamina.serve.engine import Sampling
from lamina.serve.errors import ApiError
from lamina.serve.gateway import Gateway
from lamina.serve.wire import ChatRequest

__all__ = ["chat_router"]


def chat_router(gateway: Gateway) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/chat/completions")
    async def chat(body: ChatRequest) -> dict[str, Any]:
        stack = gateway.stack(body.model, force=body.force)
        messages = [Message("system" if m.role == "developer" else m.role, m.text) for m in body.messages]  # type: ignore[arg-type]
        try:
            prompt = gateway.renderer.prompt(messages)
        except LaminaError as error:
            raise ApiError(400, error.message, param="messages") from error
        gateway.check_prompt(prompt)
        sampling = Sampling(
            max_tokens=body.max_completion_tokens or body.max_tokens or gateway.limits.max_tokens,
            temperature=body.temperature or 0.0,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
        )
        tickets = gateway.draw(stack.layers, body.choices)
        answers = await asyncio.gather(
            *(collect(gateway.answer(ticket, prompt, sampling, body.stops)) for ticket in tickets)
        )
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body.model,
            "choices": [_choice(index, answer) for index, answer in enumerate(answers)],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": sum(answer.count for answer in answers),
                "total_tokens": len(prompt) + sum(answer.count for answer in answers),
            },
        }

    return router


def _choice(index: int, answer: Answer) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": answer.text, "refusal": None},
        "logprobs": None,
        "finish_reason": answer.finish,
    }
