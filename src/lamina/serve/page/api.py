"""The page and its endpoints: static files under ``/``, JSON under ``/lamina``.

They belong to the page alone and are no part of the OpenAI-compatible API, so its document leaves them out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from importlib.resources import files
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from lamina.errors import LaminaError
from lamina.serve.page.workshop import Said, Training, Turn, Workshop

__all__ = ["OPEN_PATHS", "page_router"]

# What holds no data of anyone's, so that a browser can load it before the page asks for the API key.
OPEN_PATHS = ("/", "/page/*")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_LOOK_EVERY_S = 0.5
# A stream ends by itself and the page asks again: what lies between may have lost the other end.
_STREAM_S = 300.0

_STRICT = ConfigDict(extra="forbid", frozen=True)
Name = Annotated[str, Field(min_length=1, max_length=1000)]


class Vote(BaseModel):
    """Which of two answers to a prompt is better."""

    model_config = _STRICT

    prompt: list[Turn]
    a: Said
    b: Said
    winner: Literal["model_a", "model_b", "tie"]


class Correction(BaseModel):
    """What an answer should have been."""

    model_config = _STRICT

    prompt: list[Turn]
    said: Said
    wanted: str


class FileName(BaseModel):
    """A data file, by its path inside the project."""

    model_config = _STRICT

    file: Name


class Order(BaseModel):
    """A training to start."""

    model_config = _STRICT

    file: Name
    how: Literal["train", "update"]
    name: Name


class _Route(APIRoute):
    """A route whose mistakes that a person can mend answer with sentence and hint, also where a hint names files.

    The page shows the owner's own project to its owner; other clients have no business here.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except LaminaError as error:
                said = {"message": error.message, "hint": error.hint, "type": "invalid_request_error"}
                return JSONResponse({"error": said}, 400)

        return answer


def page_router(workshop: Workshop, is_leaving: Callable[[], bool] = lambda: False) -> APIRouter:
    """Return the routes of the page, which works with ``workshop``.

    ``is_leaving`` says that the server is shutting down: streams that would never end by themselves end then.
    """
    router = APIRouter(route_class=_Route, include_in_schema=False)
    _add_static(router)
    _add_reading(router, workshop)
    _add_writing(router, workshop)
    _add_trainings(router, workshop, is_leaving)
    return router


def _add_static(router: APIRouter) -> None:
    folder = files("lamina.serve.page").joinpath("static")
    kept = {item.name: item.read_bytes() for item in folder.iterdir() if item.is_file()}

    def send(name: str) -> Response:
        kind = _TYPES["." + name.rpartition(".")[2]]
        return Response(kept[name], media_type=kind, headers=_HEADERS)

    @router.get("/")
    async def index() -> Response:
        return send("index.html")

    @router.get("/page/{name}")
    async def static(name: str) -> Response:
        return send(name) if name in kept else Response(status_code=404)


def _add_reading(router: APIRouter, workshop: Workshop) -> None:
    @router.get("/lamina/shelf")
    def shelf() -> Any:
        return _json(workshop.shelf())

    @router.get("/lamina/lineage")
    def lineage() -> Any:
        return _json(workshop.lineage())

    @router.get("/lamina/results")
    def results() -> Any:
        return _json(workshop.results())

    @router.get("/lamina/charts")
    def charts() -> Any:
        return _json(workshop.charts())

    @router.get("/lamina/files")
    def listed() -> Any:
        return _json(workshop.files())


def _add_writing(router: APIRouter, workshop: Workshop) -> None:
    @router.post("/lamina/votes")
    def vote(said: Vote) -> Any:
        return {"new": workshop.vote(said.prompt, said.a, said.b, said.winner)}

    @router.post("/lamina/corrections")
    def correct(said: Correction) -> Any:
        return {"new": workshop.correct(said.prompt, said.wanted, said.said)}

    @router.post("/lamina/files")
    async def receive(request: Request, name: Name, offset: int, last: bool) -> Any:
        piece = await request.body()
        return {"file": await run_in_threadpool(workshop.receive, name, offset, piece, last=last)}

    @router.post("/lamina/audit")
    def audit(asked: FileName) -> Any:
        return _json(workshop.audit(asked.file))


def _add_trainings(router: APIRouter, workshop: Workshop, is_leaving: Callable[[], bool]) -> None:
    @router.post("/lamina/trainings")
    def start(order: Order) -> Any:
        return {"id": workshop.start(order.file, order.how, order.name)}

    @router.post("/lamina/trainings/{training}/stop")
    def stop(training: str) -> Any:
        workshop.stop(training)
        return {"stopped": True}

    @router.get("/lamina/trainings")
    async def watch() -> Response:
        stream = _changes(workshop, is_leaving)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _changes(workshop: Workshop, is_leaving: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield all trainings as one event, and again after every change."""
    last: list[Training] | None = None
    deadline = asyncio.get_running_loop().time() + _STREAM_S
    while asyncio.get_running_loop().time() < deadline and not is_leaving():
        now = await run_in_threadpool(workshop.trainings)
        if now != last:
            yield f"event: trainings\ndata: {json.dumps([dataclasses.asdict(each) for each in now])}\n\n"
            last = now
        await asyncio.sleep(_LOOK_EVERY_S)


def _json(value: Any) -> Any:
    """Return dataclasses, alone or in a list, as JSON."""
    if isinstance(value, list):
        return JSONResponse([dataclasses.asdict(item) for item in value])
    return JSONResponse(dataclasses.asdict(value))
