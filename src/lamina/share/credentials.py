"""The login for a registry, from where ``docker login`` and ``oras login`` keep it.

``oras`` reads only ``~/.docker/config.json``; docker itself reads the folder in ``DOCKER_CONFIG`` instead when that is
set, and so do we.

Source: docker/cli ``cli/config``; docker/docker-credential-helpers, protocol of ``get``.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamina.errors import MachineError, UsageError

__all__ = ["Login", "config_path", "find_login"]

_HUB_KEYS = ("docker.io", "index.docker.io")
_HUB_SERVER = "https://index.docker.io/v1/"
_HELPER_WAIT_S = 30


@dataclass(frozen=True, slots=True)
class Login:
    """A user's name and password or token; never printed."""

    user: str
    password: str = field(repr=False)


def config_path() -> Path:
    """Return where docker keeps logins, whether or not the file is there."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path.home() / ".docker") / "config.json"


def find_login(registry: str) -> Login | None:
    """Return the stored login for ``registry``, or None.

    Raises:
        UsageError: if the file is there and cannot be read.
        MachineError: if a credential helper that the file names is missing or fails.
    """
    path = config_path()
    try:
        config = json.loads(path.read_text("utf-8"))
        entries = {_host(key): value for key, value in config.get("auths", {}).items()}
        entry: dict[str, Any] = next((entries[name] for name in _names(registry) if name in entries), {})
        if encoded := entry.get("auth"):
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
            return Login(user, password)
        helper = config.get("credHelpers", {}).get(registry) or config.get("credsStore")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, binascii.Error) as error:
        raise UsageError(
            f"{path}: no login can be read from it", hint=f"write it anew with `docker login {registry}`"
        ) from error
    return _ask_helper(str(helper), registry) if helper else None


def _ask_helper(helper: str, registry: str) -> Login | None:
    program = f"docker-credential-{helper}"
    try:
        answer = subprocess.run(
            [program, "get"],
            input=_HUB_SERVER if registry in _HUB_KEYS else registry,
            capture_output=True,
            text=True,
            check=False,
            timeout=_HELPER_WAIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(
            f"{program}, which {config_path()} names, does not answer", hint="install it, or remove it from that file"
        ) from error
    if answer.returncode:
        return None  # how a helper says that it knows no login for this registry
    try:
        found: dict[str, Any] = json.loads(answer.stdout)
        return Login(str(found["Username"]), str(found["Secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise MachineError(
            f"{program} answered something other than a login", hint=f"run `docker login {registry}`"
        ) from error


def _host(key: str) -> str:
    """Return the host that an entry is for: old docker versions wrote whole addresses."""
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _names(registry: str) -> tuple[str, ...]:
    return _HUB_KEYS if registry in _HUB_KEYS else (registry,)
