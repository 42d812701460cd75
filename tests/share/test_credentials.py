from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from lamina.errors import MachineError, UsageError
from lamina.share.credentials import Login, config_path, find_login


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return a function that writes docker's configuration."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def config(value: object) -> None:
        (tmp_path / "config.json").write_text(value if isinstance(value, str) else json.dumps(value))

    return config


def _auth(text: str) -> dict[str, str]:
    return {"auth": base64.b64encode(text.encode()).decode()}


def test_no_file_no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "nowhere"))
    assert find_login("ghcr.io") is None


def test_without_docker_config_it_is_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_CONFIG")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config_path() == tmp_path / ".docker" / "config.json"


@pytest.mark.parametrize(
    ("key", "registry"),
    [
        ("localhost:5000", "localhost:5000"),
        ("https://ghcr.io", "ghcr.io"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("registry.example.com/v1/", "registry.example.com"),
    ],
)
def test_the_login_of_a_registry(write, key: str, registry: str) -> None:
    write({"auths": {"other.io": _auth("bob:no"), key: _auth("ann:open:sesame")}})
    assert find_login(registry) == Login("ann", "open:sesame")
    assert find_login("third.io") is None


def test_a_password_is_never_printed() -> None:
    assert "sesame" not in repr(Login("ann", "sesame"))


@pytest.mark.parametrize("broken", ["{", "[]", '{"auths": 3}', '{"auths": {"ghcr.io": {"auth": "%%"}}}'])
def test_a_broken_file_is_named(write, broken: str) -> None:
    write(broken)
    with pytest.raises(UsageError, match=r"config\.json: no login can be read from it") as caught:
        find_login("ghcr.io")
    assert "docker login ghcr.io" in caught.value.hint


def _install_helper(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "docker-credential-test"
    program.write_text(f"#!/bin/sh\nread server\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("config", [{"credsStore": "test"}, {"credHelpers": {"ghcr.io": "test"}}])
def test_a_helper_is_asked(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]) -> None:
    write({"auths": {"ghcr.io": {}}} | config)
    _install_helper(tmp_path, monkeypatch, 'echo "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"x\\"}"')
    assert find_login("ghcr.io") == Login("ghcr.io", "x")


def test_a_helper_that_knows_nothing(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"credsStore": "test"})
    _install_helper(tmp_path, monkeypatch, "echo credentials not found; exit 1")
    assert find_login("ghcr.io") is None


def test_a_helper_that_is_missing_or_talks_nonsense(write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write({"credsStore": "absent"})
    with pytest.raises(MachineError, match=r"docker-credential-absent, which .* names, does not answer"):
        find_login("ghcr.io")
    write({"credsStore": "test"})
    _install_helper(tmp_path, monkeypatch, "echo hello")
    with pytest.raises(MachineError, match="answered something other than a login"):
        find_login("ghcr.io")
