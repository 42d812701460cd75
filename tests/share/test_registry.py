"""Manifests and logins: what a registry may answer, and the one sentence each answer becomes."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from lamina.errors import MachineError, StackError
from lamina.refs import Digest
from lamina.share.reference import Reference
from lamina.share.registry import LARGEST_MANIFEST, Dropped, Registry
from lamina.share.upload import upload_blob
from lamina.stack.manifest import Descriptor

_TYPE = "application/vnd.oci.image.manifest.v1+json"


def _quiet(amount: float, detail: str = "") -> None:
    pass


def _login(folder: Path, registry: str, text: str) -> None:
    (folder / "docker").mkdir(exist_ok=True)
    auth = base64.b64encode(text.encode()).decode()
    (folder / "docker" / "config.json").write_text(json.dumps({"auths": {registry: {"auth": auth}}}))


def _push_empty(registry: Registry, folder: Path) -> bytes:
    path = folder / "empty"
    path.write_bytes(b"{}")
    item = Descriptor(mediaType="x", digest=str(Digest.of_bytes(b"{}")), size=2)
    upload_blob(registry, item, path, _quiet)
    content = json.dumps(
        {"schemaVersion": 2, "mediaType": _TYPE, "config": {"mediaType": "x", "digest": item.digest, "size": 2}}
        | {"layers": []}
    ).encode()
    registry.write_manifest(content, _TYPE)
    return content


def test_a_manifest_comes_back_as_it_went_by_tag_and_by_digest(server, open_registry, tmp_path: Path) -> None:
    content = _push_empty(open_registry(server), tmp_path)
    digest = str(Digest.of_bytes(content))
    assert open_registry(server).read_manifest() == (content, digest)
    where = open_registry(server).reference
    assert Registry(Reference(where.registry, where.repository, digest)).read_manifest() == (content, digest)


def test_a_tag_that_is_not_there(server, open_registry) -> None:
    registry = open_registry(server, tag="v9")
    with pytest.raises(StackError) as caught:
        registry.read_manifest()
    assert caught.value.message == f"{server.name} has no {registry.reference} (404)"
    assert caught.value.hint == "check name and tag"


def test_a_manifest_whose_blobs_are_not_there_is_refused(server, open_registry) -> None:
    digest = str(Digest.of_bytes(b"nowhere"))
    content = {"schemaVersion": 2, "mediaType": _TYPE, "config": {"mediaType": "x", "digest": digest, "size": 7}}
    with pytest.raises(StackError, match=rf"{server.name} refuses the manifest of .*: .+ \(4\d\d\)"):
        open_registry(server).write_manifest(json.dumps(content | {"layers": []}).encode(), _TYPE)


def test_nobody_there(open_registry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    registry = Registry(Reference("127.0.0.1:" + str(port), "tools", "v1"))
    with pytest.raises(MachineError) as caught:
        registry.read_manifest()
    assert caught.value.message == f"registry 127.0.0.1:{port}: nothing answers there (connection refused)"
    assert "network" in caught.value.hint


def test_a_login_is_asked_for(locked_server, open_registry, tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        open_registry(locked_server).read_manifest()
    assert caught.value.message == f"{locked_server.name} asks for a login (401)"
    assert f"docker login {locked_server.name}" in caught.value.hint
    _login(tmp_path, locked_server.name, "ann:wrong")
    with pytest.raises(StackError) as caught:
        open_registry(locked_server).read_manifest()
    assert caught.value.message == (f"{locked_server.name} refuses the login in {tmp_path}/docker/config.json (401)")


def test_a_stored_login_opens_the_door(locked_server, open_registry, tmp_path: Path) -> None:
    _login(tmp_path, locked_server.name, "ann:open sesame")
    content = _push_empty(open_registry(locked_server), tmp_path)
    assert open_registry(locked_server).read_manifest()[0] == content


class _Odd(BaseHTTPRequestHandler):
    """A registry that answers each path with what a test put down for it, and remembers what it was asked."""

    protocol_version = "HTTP/1.1"
    answers: ClassVar[dict[str, list[tuple[int, dict[str, str], bytes]]]] = {}
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Authorization")))
        known = self.answers.get(self.path.partition("?")[0], [(404, {}, b"")])
        status, headers, content = known.pop(0) if len(known) > 1 else known[0]
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def odd() -> Iterator[type[_Odd]]:
    _Odd.answers, _Odd.asked = {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), _Odd) as server:
        _Odd.name = f"127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield _Odd
        server.shutdown()
        thread.join()


_MANIFEST = "/v2/tools/manifests/v1"


def _open(odd: type[_Odd]) -> Registry:
    return Registry(Reference(odd.name, "tools", "v1"), pauses_s=(0.0,))


@pytest.mark.parametrize(
    ("status", "content", "kind", "message"),
    [
        (403, b"", StackError, r"does not let you do this with tools \(403\)"),
        (429, b"", MachineError, r"it takes no more requests for now \(429\)"),
        (503, b"", MachineError, r"it is in trouble \(Service Unavailable \(503\)\)"),
        (400, b'{"errors": [{"code": "X", "message": "bad tag"}]}', StackError, r"refuses .*: bad tag \(400\)"),
        (400, b'{"errors": []}', StackError, r"refuses .*: Bad Request \(400\)"),
        (401, b"", StackError, r"asks for a login \(401\)"),
    ],
)
def test_each_refusal_is_one_sentence(odd, status: int, content: bytes, kind, message: str) -> None:
    odd.answers[_MANIFEST] = [(status, {}, content)]
    with pytest.raises(kind, match=message) as caught:
        _open(odd).read_manifest()
    assert caught.value.hint


def test_a_token_is_fetched_with_the_login_and_renewed_when_it_runs_out(odd, tmp_path: Path) -> None:
    _login(tmp_path, odd.name, "ann:open sesame")
    challenge = {
        "Www-Authenticate": f'Bearer realm="http://{odd.name}/token",service="odd",scope="repository:tools:pull"'
    }
    odd.answers[_MANIFEST] = [(401, challenge, b""), (200, {}, b"one"), (401, challenge, b""), (200, {}, b"two")]
    odd.answers["/token"] = [(200, {}, b'{"token": "first"}'), (200, {}, b'{"access_token": "second"}')]
    registry = _open(odd)
    assert [registry.read_manifest()[0], registry.read_manifest()[0]] == [b"one", b"two"]
    basic = "Basic " + base64.b64encode(b"ann:open sesame").decode()
    token = "/token?service=odd&scope=repository%3Atools%3Apull"
    assert odd.asked == [
        (_MANIFEST, None),
        (token, basic),
        (_MANIFEST, "Bearer first"),
        (_MANIFEST, "Bearer first"),
        (token, basic),
        (_MANIFEST, "Bearer second"),
    ]


@pytest.mark.parametrize("challenge", ["Bearer", "Bearer service=x", "Digest realm=x", ""])
def test_a_challenge_that_cannot_be_met(odd, challenge: str) -> None:
    odd.answers[_MANIFEST] = [(401, {"Www-Authenticate": challenge}, b"")]
    with pytest.raises(StackError, match=r"asks for a login"):
        _open(odd).read_manifest()


def test_a_login_is_not_shown_to_another_host(odd, tmp_path: Path, locked_server) -> None:
    _login(tmp_path, odd.name, "ann:open sesame")
    registry = _open(odd)
    odd.answers["/v2/tools/blobs/x"] = [(401, {"Www-Authenticate": 'Basic realm="odd"'}, b""), (200, {}, b"")]
    assert registry.has_blob("x")
    assert odd.asked[-1][1] is not None
    port = odd.name.rpartition(":")[2]
    odd.answers["/elsewhere"] = [(200, {}, b"")]
    registry.request("GET", f"http://localhost:{port}/elsewhere", what="x").close()
    assert odd.asked[-1] == ("/elsewhere", None)


def test_a_manifest_over_4_mb_is_refused(odd) -> None:
    odd.answers[_MANIFEST] = [(200, {}, bytes(LARGEST_MANIFEST + 1))]
    with pytest.raises(StackError, match="is over 4 MB"):
        _open(odd).read_manifest()


def test_another_manifest_than_the_digest_says_is_refused(odd) -> None:
    digest = str(Digest.of_bytes(b"asked for"))
    odd.answers[_MANIFEST] = [(200, {"Docker-Content-Digest": digest}, b"sent")]
    odd.answers[f"/v2/tools/manifests/{digest}"] = [(200, {}, b"sent")]
    with pytest.raises(StackError, match=r"sent another manifest for .*:v1 than its digest says"):
        _open(odd).read_manifest()
    with pytest.raises(StackError, match=r"sent another manifest for .*@sha256:.* than its digest says"):
        Registry(Reference(odd.name, "tools", digest)).read_manifest()


def test_half_the_headers_are_a_dropped_connection(proxy, server, open_registry, tmp_path: Path) -> None:
    _push_empty(open_registry(server), tmp_path)
    registry, digest = open_registry(proxy), str(Digest.of_bytes(b"{}"))
    assert registry.has_blob(digest)
    proxy.cut("down", 60)
    with pytest.raises(Dropped, match="the connection was cut"):
        registry.has_blob(digest)
