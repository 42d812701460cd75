"""``lamina serve`` before it serves: what it refuses, and where it listens."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lamina.ops.serve as ops


def test_others_are_let_in_only_with_a_key(
    project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LAMINA_API_KEY", raising=False)
    for host in ("0.0.0.0", "192.168.0.1", "::", "example.org"):
        said = cli("serve", "--host", host)
        assert said.code == 2
        assert "there is no API key" in said.err
    monkeypatch.setenv("LAMINA_API_KEY", "")
    assert cli("serve", "--host", "0.0.0.0").code == 2


def test_a_taken_port_is_said(project: Path, cli: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = cli("serve", "--port", str(taken.getsockname()[1]))
    assert said.code == 1
    assert "something else is listening there" in said.err


def test_an_origin_is_spelled_out(project: Path, cli: Callable[..., Any]) -> None:
    for origin in ("*", "example.org", "http://example.org/path"):
        assert cli("serve", "--allow-origin", origin).code == 2


def test_a_missing_model_file_is_said(project: Path, base_folders: dict[str, Path], cli: Callable[..., Any]) -> None:
    weights = base_folders["llama"] / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    try:
        said = cli("serve", "--port", "0")
    finally:
        weights.write_bytes(content)
    assert said.code == 1
    assert "no config.json with .safetensors weights" in said.err


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("127.1.2.3", True), ("10.0.0.1", False)],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert ops._is_loopback(host) == expected
