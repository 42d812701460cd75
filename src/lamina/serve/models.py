"""``/v1/models``: the stacks that have a name."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from lamina.serve.gateway import Gateway
from lamina.serve.stacks import ServedStack

__all__ = ["models_router"]


def models_router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """List the base, every ref and every prefix of one; sums such as ``base+tools:0.5`` work without being here."""
        return {"object": "list", "data": [_model(gateway, stack) for stack in gateway.stacks.all()]}

    @router.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        """Return one model, also one that is not listed."""
        return _model(gateway, gateway.stack(name))

    return router


def _model(gateway: Gateway, stack: ServedStack) -> dict[str, Any]:
    layers = [
        {"name": name, "digest": digest, "scale": scale}
        for name, (digest, scale) in zip(stack.names, stack.layers, strict=True)
    ]
    return {
        "id": stack.name,
        "object": "model",
        "created": stack.created,
        "owned_by": "lamina",
        "digest": stack.digest,
        "layers": layers,
        "routed": gateway.router(stack) is not None,
    }
