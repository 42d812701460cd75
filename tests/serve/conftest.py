"""A gateway on a tiny project, over an engine that says what a test has written for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from lamina.data.render import Renderer
from lamina.model.base import load_tokenizer
from lamina.ops.project import open_project
from lamina.ops.route import make_routing
from lamina.records import Quiet
from lamina.refs import Digest
from lamina.route.classifier import fit
from lamina.route.keep import Decision, tensor_bytes, write_decision, write_router
from lamina.route.router import Router, RouterRecord, SkillRoute, set_limits
from lamina.serve.app import make_app
from lamina.serve.engine import EngineError, Generation, Layers, Token
from lamina.serve.gateway import Gateway
from lamina.serve.guard import Access
from lamina.serve.limits import Limits
from lamina.serve.stacks import Stacks
from lamina.stack.layers import stack_digest
from lamina.stack.manifest import StackConfig
from lamina.stack.store import Store


@dataclass
class FakeEngine:
    """Says ``script(request)``: token ids, then the end of the turn unless ``max_tokens`` comes first.

    An exception in the script is raised where it stands; an ``asyncio.Event`` is waited for.
    """

    script: Callable[[Generation], Sequence[Any]] = lambda request: ()
    name: str = "fake"
    context: int = 200
    vector: list[float] | Exception | None = None
    starts: int = 0
    failing_starts: int = 0
    seen: list[Generation] = field(default_factory=list)
    embedded: list[tuple[tuple[int, ...], Layers]] = field(default_factory=list)
    closed: int = 0

    async def start(self) -> None:
        self.starts += 1
        if self.failing_starts:
            self.failing_starts -= 1
            raise EngineError("not yet")

    async def stop(self) -> None:
        pass

    async def generate(self, request: Generation) -> AsyncIterator[Token]:
        self.seen.append(request)
        try:
            count = 0
            for item in self.script(request):
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                    continue
                await asyncio.sleep(0)
                count += 1
                token = item if isinstance(item, Token) else Token(id=item, logprob=-0.5, top=((item, -0.5), (3, -2.0)))
                if count == request.sampling.max_tokens:
                    yield Token(id=token.id, logprob=token.logprob, top=token.top, finish="length")
                    return
                yield token
            yield Token(id=None, finish="stop")
        finally:
            self.closed += 1

    async def embed(self, prompt: tuple[int, ...], layers: Layers) -> list[float] | None:
        self.embedded.append((prompt, layers))
        if isinstance(self.vector, Exception):
            raise self.vector
        return self.vector


@dataclass
class Site:
    """A running application and its parts."""

    gateway: Gateway
    engine: FakeEngine
    folder: Path

    def ids(self, text: str) -> list[int]:
        return self.gateway.renderer.tokenizer.encode(text, add_special_tokens=False)

    def says(self, text: str) -> None:
        """Make the engine answer ``text`` to everything."""
        self.engine.script = lambda request: self.ids(text)

    @asynccontextmanager
    async def client(self, **access: Any) -> AsyncIterator[httpx.AsyncClient]:
        if self.gateway.state == "stopped":
            await self.gateway.start()
        transport = httpx.ASGITransport(make_app(self.gateway, Access(**access)))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:11435") as client:
            yield client

    def ask(self, method: str, path: str, *, access: dict[str, Any] | None = None, **kwargs: Any) -> httpx.Response:
        """Return the answer to one request."""

        async def once() -> httpx.Response:
            async with self.client(**(access or {})) as client:
                return await client.request(method, path, **kwargs)

        return asyncio.run(once())

    def chat(self, content: str = "hello", **body: Any) -> httpx.Response:
        """Return the answer to one chat request."""
        messages = [{"role": "user", "content": content}]
        return self.ask("POST", "/v1/chat/completions", json={"model": "main", "messages": messages} | body)


@pytest.fixture
def make_site(project: Path) -> Iterator[Callable[..., Site]]:
    opened = open_project(project, Quiet())

    def make(**limits: Any) -> Site:
        engine = FakeEngine()
        renderer = Renderer(load_tokenizer(opened.base), opened.base.template)
        stacks = Stacks(opened.store, opened.base.pin)
        routing = make_routing(opened.store)
        return Site(Gateway(engine, stacks, renderer, Limits(**limits), routing=routing), engine, project)

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture(scope="session")
def route() -> Callable[[Path, str, StackConfig], None]:
    """Gives a branch of two layers a router: prompts near (1, 0) get the first alone, near (0, 1) the other."""

    def write(folder: Path, branch: str, stack: StackConfig) -> None:
        drawn = np.random.default_rng(0).normal(0, 0.05, (60, 2))
        owners = [place % 2 for place in range(60)]
        points = np.eye(2)[owners] + drawn
        classifier = fit(points[:40], owners[:40], 2)
        least, reach = set_limits(classifier, points[40:], owners[40:])
        record = RouterRecord(
            base=stack.base.digest,
            stack=stack_digest(stack),
            weights=str(Digest.of_bytes(tensor_bytes(classifier))),
            skills=tuple(SkillRoute(name=each.name, choice="own", layers=(each.layer,)) for each in stack.layers),
            precision=classifier.precision,
            least=least,
            reach=reach,
        )
        store = Store.find(folder)
        digest = write_router(store, Router(record, classifier))
        write_decision(store, branch, Decision(router=digest, enabled=True, helps=True, verdict="use it"))

    return write
