"""``/v1/embeddings``."""

from __future__ import annotations

import base64
from array import array
from typing import Any

from fastapi import APIRouter, Request

from lamina.serve.connection import while_connected
from lamina.serve.gateway import Gateway
from lamina.serve.wire import EmbeddingRequest

__all__ = ["embedding_router"]


def embedding_router(gateway: Gateway) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["embeddings"])

    @router.post("/v1/embeddings")
    async def embed(body: EmbeddingRequest, request: Request) -> dict[str, Any]:
        """Return the mean of the last hidden states of each text, of unit length; 501 if the engine has none."""
        stack = gateway.stack(body.model, force=body.force)
        prompts = gateway.tokenise(body.input, "input")
        work = gateway.embed(prompts, stack.layers)
        found = await while_connected(request.receive, work, gateway.limits.timeout_s)
        spell = _base64 if body.encoding_format == "base64" else list[float]
        count = sum(map(len, prompts))
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": spell(vector)} for i, vector in enumerate(found)],
            "model": body.model,
            "usage": {"prompt_tokens": count, "total_tokens": count},
        }

    return router


def _base64(vector: list[float]) -> str:
    """Return float32 numbers, little-endian, as OpenAI's clients read them."""
    return base64.b64encode(array("f", vector).tobytes()).decode()
