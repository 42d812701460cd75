"""A project's stacks behind the OpenAI API: the engine, the gateway and the HTTP server brought together."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import uvicorn

from lamina.data.render import Renderer
from lamina.errors import MachineError, UsageError
from lamina.lora.adapter import Adapter, load_adapter
from lamina.model.base import load_tokenizer
from lamina.ops.llama import make_llama_engine, why_no_llama
from lamina.ops.project import Project
from lamina.ops.route import make_routing
from lamina.ops.vllm import make_vllm_engine, why_no_vllm
from lamina.ops.workshop import ProjectWorkshop
from lamina.serve.app import make_app
from lamina.serve.engine import Engine, EngineError
from lamina.serve.gateway import Gateway
from lamina.serve.guard import Access
from lamina.serve.limits import Limits
from lamina.serve.page.api import OPEN_PATHS, page_router
from lamina.serve.stacks import Stacks
from lamina.serve.torch_engine import TorchEngine
from lamina.stack.layers import read_layer

__all__ = ["EngineName", "ServeOptions", "make_engine", "make_gateway", "serve"]

EngineName = Literal["llama", "torch", "vllm"]
_KEEP_ALIVE_S = 75  # longer than clients keep a connection that they mean to use again
_BACKLOG = 2048
_ORIGIN = re.compile(r"https?://[^/*\s]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """How to serve: where, with what engine, to whom.

    Attributes:
        port: 0 takes a free one.
        engine: None takes llama.cpp where it can serve the base, else torch.
        api_key: what clients must send as ``Authorization: Bearer``; None lets everyone in who can reach the port.
        hosts: names besides localhost that clients may call it by.
        origins: web pages, as ``http://host:port``, whose scripts may ask.
        log_prompts: whether prompts are put into the log.
    """

    host: str = "127.0.0.1"
    port: int = 11435
    engine: EngineName | None = None
    api_key: str | None = None
    limits: Limits = field(default_factory=Limits)
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    log_prompts: bool = False


def serve(project: Project, options: ServeOptions, *, ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is being answered. ``ready`` is told the URL once it answers.

    Raises:
        UsageError: if the address is not loopback and there is no API key.
        MachineError: if the port is taken, or the engine cannot be loaded.
    """
    if options.api_key is None and not _is_loopback(options.host):
        raise UsageError(
            f"--host {options.host} lets others reach this server, and there is no API key",
            hint="set LAMINA_API_KEY (or --api-key), or leave --host out to serve this machine alone",
        )
    for origin in options.origins:
        if not _ORIGIN.fullmatch(origin):
            raise UsageError(f"--allow-origin {origin}: not an origin", hint="for example: http://localhost:3000")
    _start_log()
    with _listen(options.host, options.port) as listener:
        asyncio.run(_serve(project, options, listener, ready))


def make_engine(project: Project, name: EngineName | None = None) -> Engine:
    """Return the engine called ``name`` for the project's base, not started; None takes llama.cpp where it can.

    Raises:
        MachineError: if llama.cpp or vLLM is asked for and cannot serve this base here.
    """
    if name == "vllm":
        return _vllm_engine(project)
    problem = None if name == "torch" else why_no_llama(project.base)
    if problem is not None and name == "llama":
        raise MachineError(f"llama.cpp cannot serve this base: {problem}", hint="--engine torch serves any")
    if problem is not None:
        project.progress.note(f"serving with torch, which is slower: {problem}")
    if problem is not None or name == "torch":
        return TorchEngine(lambda: project.loaded, lambda digest: _adapter(project, digest))
    stacks = Stacks(project.store, project.base.pin)
    return make_llama_engine(
        project.base,
        project.progress,
        adapter=lambda digest: _adapter(project, digest),
        known=lambda: [stack.layers for stack in stacks.all()],
    )


def _vllm_engine(project: Project) -> Engine:
    if (problem := why_no_vllm(project.base)) is not None:
        reason, hint = problem
        raise MachineError(f"vLLM cannot serve this base here: {reason}", hint=hint)
    stacks = Stacks(project.store, project.base.pin)
    return make_vllm_engine(
        project.base,
        project.store.root / "cache" / "vllm",
        adapter=lambda digest: _adapter(project, digest),
        ranks=lambda: [
            sum(read_layer(project.store, digest).rank for digest, _ in stack.layers) for stack in stacks.all()
        ],
    )


def make_gateway(project: Project, engine: Engine, limits: Limits, *, log_prompts: bool = False) -> Gateway:
    """Return what serves the project's stacks with ``engine``."""
    renderer = Renderer(load_tokenizer(project.base), project.base.template)
    stacks, routing = Stacks(project.store, project.base.pin), make_routing(project.store)
    return Gateway(engine, stacks, renderer, limits, routing=routing, log_prompts=log_prompts)


async def _serve(
    project: Project, options: ServeOptions, listener: socket.socket, ready: Callable[[str], None]
) -> None:
    engine = make_engine(project, options.engine)
    gateway = make_gateway(project, engine, options.limits, log_prompts=options.log_prompts)
    access = Access(
        hosts=frozenset({options.host, socket.gethostname(), *options.hosts}),
        origins=frozenset(options.origins),
        api_key=options.api_key,
        open_paths=("/health", *OPEN_PATHS),
    )
    workshop = ProjectWorkshop(project)
    app = make_app(gateway, access, extra=[page_router(workshop, lambda: server.should_exit)])
    try:
        await gateway.start()
    except EngineError as error:
        raise MachineError(f"the engine '{engine.name}' did not start: {error}") from error
    try:
        ready(_url(listener))
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                ws="none",
                timeout_keep_alive=_KEEP_ALIVE_S,
            )
        )
        # uvicorn raises the signal again once all streams have ended; by then there is nothing left to interrupt.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        await server.serve(sockets=[listener])
    finally:
        workshop.close()
        await gateway.stop()


def _start_log() -> None:
    """Write one line per request to stderr."""
    log = logging.getLogger("lamina.serve")
    log.setLevel(logging.INFO)
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
    log.propagate = False


def _adapter(project: Project, digest: str) -> Adapter:
    return load_adapter(project.store.blob_path(read_layer(project.store, digest).weights))


def _listen(host: str, port: int) -> socket.socket:
    listener = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)  # whoever is told the URL may connect at once, before uvicorn accepts
    except OSError as error:
        if listener is not None:
            listener.close()
        taken = error.errno == errno.EADDRINUSE
        reason = "something else is listening there" if taken else (error.strerror or str(error))
        raise MachineError(
            f"cannot serve on {host} port {port}: {reason}", hint="choose another with --port, or --port 0 for any"
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
