"""A stand-in for the OpenAI-compatible server, for work on the page alone: answers that say which model gave them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from lamina.ops.project import open_project
from lamina.ops.workshop import ProjectWorkshop
from lamina.records import Quiet
from lamina.serve.page.api import page_router


def make_app(folder: Path) -> FastAPI:
    app = FastAPI()
    app.include_router(page_router(ProjectWorkshop(open_project(folder, Quiet()))))

    @app.post("/v1/chat/completions")
    async def complete(body: dict[str, Any]) -> StreamingResponse:
        return StreamingResponse(_speak(body), media_type="text/event-stream")

    return app


async def _speak(body: dict[str, Any]) -> AsyncIterator[str]:
    asked = body["messages"][-1]["content"]
    words = f"{body['model']} heard: {asked} {'and on ' * (200 if 'forever' in asked else 0)}".split(" ")
    for word in words:
        yield _event({"choices": [{"index": 0, "delta": {"content": word + " "}, "finish_reason": None}]})
        await asyncio.sleep(0.02)
    yield _event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield _event({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": len(words), "total_tokens": 0}})
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


if __name__ == "__main__":
    uvicorn.run(make_app(Path(sys.argv[1])), port=int(sys.argv[2]), log_level="warning")
