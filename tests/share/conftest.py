"""A real registry on loopback, a proxy in front of it that cuts connections, and projects that push and pull."""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from lamina.ops import pull as pull_module
from lamina.ops import push as push_module
from lamina.ops.pull import Pulled
from lamina.ops.push import Pushed
from lamina.records import Quiet
from lamina.refs import Digest
from lamina.share.reference import Reference
from lamina.share.registry import Registry
from lamina.stack.fsck import check_store
from lamina.stack.layers import stack_digest, write_layer, write_stack
from lamina.stack.lineage import set_ref
from lamina.stack.manifest import BasePin, Cost, DataSource, LayerConfig, StackConfig
from lamina.stack.order import add_layer
from lamina.stack.store import Store

BINARY = shutil.which("docker-registry")
_START_S = 20.0
# bcrypt, the only hash that the registry reads, of "open sesame", as `htpasswd -nbB ann "open sesame"` writes it
HTPASSWD = "ann:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n"


@dataclass(frozen=True)
class Server:
    """A running registry and the folder that holds what was pushed."""

    port: int
    folder: Path

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def blob_file(self, digest: str) -> Path:
        hexdigits = digest.removeprefix("sha256:")
        return self.folder / "docker/registry/v2/blobs/sha256" / hexdigits[:2] / hexdigits / "data"


@contextmanager
def serve(folder: Path, *, htpasswd: str = "") -> Iterator[Server]:
    """Run Debian's docker-registry on a free port until the block ends."""
    if BINARY is None:
        pytest.skip("docker-registry is not installed: apt-get install docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    if htpasswd:
        (folder / "htpasswd").write_text(htpasswd)
        config["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, "serve", str(folder / "config.yml")], stdout=log, stderr=log)
    try:
        _await_port(port, process)
        yield Server(port, folder / "data")
    finally:
        process.kill()
        process.wait()


def _await_port(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    pytest.fail("docker-registry did not start")


@dataclass
class Cut:
    """When a connection ends: after so many bytes ``up`` to or ``down`` from the registry, or at a kind of request.

    A request that begins with ``request`` is cut before the registry sees it, after ``skip`` others of its kind.
    """

    way: str = "up"
    after_bytes: int = 0
    request: bytes = b""
    skip: int = 0

    def passed(self, piece: bytes, way: str) -> int:
        """Return how many bytes of a piece go through."""
        if way != self.way or (self.request and not piece.startswith(self.request)):
            return len(piece)
        if self.request:
            self.skip -= 1
            return 0 if self.skip < 0 else len(piece)
        passed = min(self.after_bytes, len(piece))
        self.after_bytes -= passed
        return passed


@dataclass(repr=False)
class Proxy:
    """Passes connections on to ``upstream``, and carries out ``cuts`` one after the other."""

    upstream: int
    cuts: list[Cut] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    up_bytes: int = 0
    down_bytes: int = 0
    port: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sockets: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def cut(self, way: str, after_bytes: int = 0, *, request: bytes = b"", skip: int = 0) -> None:
        self.cuts.append(Cut(way, after_bytes, request, skip))

    def heal(self) -> None:
        self.cuts.clear()

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        acceptor = threading.Thread(target=self._accept, args=(listener,))
        acceptor.start()
        try:
            yield self
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            acceptor.join()
            listener.close()
            self._end(*self._sockets)
            for thread in self._threads:
                thread.join()
            for each in self._sockets:
                each.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.upstream))
                self._sockets += [client, server]
                for ends in ((client, server, "up"), (server, client, "down")):
                    self._threads.append(threading.Thread(target=self._pump, args=ends))
                    self._threads[-1].start()

    def _pump(self, source: socket.socket, target: socket.socket, way: str) -> None:
        with suppress(OSError):
            while piece := source.recv(1 << 16):
                passed = self._pass(piece, way)
                target.sendall(piece[:passed])
                if passed < len(piece):
                    break
        self._end(source, target)

    def _pass(self, piece: bytes, way: str) -> int:
        """Return how many bytes of the piece go through."""
        with self._lock:
            first = piece.partition(b"\r\n")[0]
            if way == "up" and first.endswith(b" HTTP/1.1"):
                self.requests.append(first.decode())
            passed = self.cuts[0].passed(piece, way) if self.cuts else len(piece)
            if passed < len(piece):
                del self.cuts[0]
            if way == "down":
                self.down_bytes += passed
            else:
                self.up_bytes += passed
            return passed

    @staticmethod
    def _end(*sockets: socket.socket) -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("locked"), htpasswd=HTPASSWD) as running:
        yield running


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port).running() as running:
        yield running


@pytest.fixture(autouse=True)
def _no_logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the logins of whoever runs the tests out of them."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository of the test's own in the shared registry."""
    return f"t/{Digest.of_bytes(request.node.nodeid.encode()).short}"


@pytest.fixture
def open_registry(repository: str) -> Callable[..., Registry]:
    """Return a function that opens the test's repository behind a server or a proxy, impatiently."""

    def open_at(place: Server | Proxy, name: str = "", tag: str = "v1") -> Registry:
        return Registry(Reference.parse(f"{place.name}/{name or repository}:{tag}"), pauses_s=(0.0, 0.0))

    return open_at


def pin(name: str = "tiny") -> BasePin:
    digest = str(Digest.of_bytes(name.encode()))
    return BasePin(
        name=name, digest=digest, family="llama", template_digest=digest, tokenizer_digest=digest, source=f"./{name}"
    )


@dataclass(frozen=True)
class Home:
    """A project without a model, as far as push and pull look at it."""

    store: Store
    bare: StackConfig

    @property
    def folder(self) -> Path:
        return self.store.project

    def bake(self, name: str, parent: StackConfig | None = None, *, size: int = 1000, rows: str = "") -> str:
        """Write a layer with ``size`` bytes of weights, and with private rows if there are any."""
        parent = parent or self.bare
        config = LayerConfig(
            name=name,
            base=parent.base,
            parent=stack_digest(parent),
            weights=self.store.put_bytes(random.Random(name).randbytes(size), "w").digest,
            rank=4,
            modules=("model.layers.0.mlp.up_proj",),
            recipe={"rank": 4},
            recipe_origins={},
            data=(DataSource(file="a.jsonl", digest=parent.base.digest, rows=2),),
            rows=self.store.put_bytes(f"rows of {name}\n".encode(), "r").digest,
            replay=self.store.put_bytes(f"{rows} replayed".encode(), "d").digest if rows else None,
            heldout=self.store.put_bytes(f"{rows} held out".encode(), "d").digest if rows else None,
            cost=Cost(tokens=10, trained_tokens=7, seconds=0.5, steps=2),
            heldout_loss_before=None,
            heldout_loss_after=1.25,
            machine={},
            versions={},
            created="2026-01-01T00:00:00+00:00",
        )
        return write_layer(self.store, config)

    def stack(self, *names: str, ref: str = "main", size: int = 1000, rows: str = "") -> StackConfig:
        """Bake layers on top of one another and point ``ref`` at them."""
        stack = self.bare
        for name in names:
            stack = add_layer(self.store, stack, self.bake(name, stack, size=size, rows=rows))
            write_stack(self.store, stack)
        set_ref(self.store, ref, stack_digest(stack), why="test")
        return stack

    def push(self, target: str, stack: str | None = None, **flags: Any) -> Pushed:
        return push_module.push(self.folder, stack, target, progress=Quiet(), **flags)

    def pull(self, target: str, **flags: Any) -> Pulled:
        return pull_module.pull(self.folder, target, progress=Quiet(), **flags)

    def files(self) -> dict[str, bytes]:
        """Everything that says what the project holds: index, refs' logs and blobs."""
        found = [self.store.root / "index.json", *(self.store.root / "logs").rglob("*")]
        found += [*(self.store.root / "blobs").rglob("*")]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in found if path.is_file()}

    def check_untouched(self, files: dict[str, bytes]) -> None:
        """Check that index, refs and all blobs are as they were; more blobs may have come, each whole."""
        now = self.files()
        assert {name: now[name] for name in files} == files
        assert [name for name in now if name not in files and "/blobs/" not in name] == []
        assert check_store(self.store) == []


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once: the tests' connections do not get better by waiting."""
    for module in (push_module, pull_module):
        registry = module.Registry
        monkeypatch.setattr(
            module, "Registry", lambda *given, made=registry, **named: made(*given, pauses_s=(0.0,) * 3, **named)
        )


@pytest.fixture
def target(server: Server, repository: str) -> str:
    return f"{server.name}/{repository}:v1"


@pytest.fixture
def make_home(tmp_path: Path) -> Callable[..., Home]:
    """Return a function that makes a project, on the tiny base unless told."""

    def make(name: str, base: str = "tiny") -> Home:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "lamina.toml").write_text(f'[base]\nmodel = "./{base}"\ndigest = "{pin(base).digest}"\n')
        home = Home(Store.create(folder), StackConfig(base=pin(base), layers=()))
        set_ref(home.store, "main", write_stack(home.store, home.bare), why="init")
        return home

    return make


@pytest.fixture
def home(make_home: Callable[..., Home]) -> Home:
    return make_home("home")


@pytest.fixture
def away(make_home: Callable[..., Home]) -> Home:
    return make_home("away")
