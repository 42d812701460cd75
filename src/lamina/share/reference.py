"""What a person types to name a stack in a registry: ``REGISTRY/NAME:TAG`` or ``REGISTRY/NAME@sha256:...``.

``oras`` takes the text apart; what it lets through and a registry would answer with a riddle is refused here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from oras.container import Container

from lamina.errors import UsageError
from lamina.refs import Digest

__all__ = ["Reference"]

_EXAMPLE = "for example: localhost:5000/team/tools:v1"
# Source: OCI distribution-spec 1.1, "Pulling manifests".
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
# Docker Hub's API answers at another name than the one people type.
_HUB, _HUB_API = "docker.io", "registry-1.docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """A stack's place in a registry. ``tag`` is a tag, or a digest where ``is_pinned``."""

    registry: str
    repository: str
    tag: str

    def __str__(self) -> str:
        return f"{self.registry}/{self.repository}{'@' if self.is_pinned else ':'}{self.tag}"

    @property
    def is_pinned(self) -> bool:
        """Whether it names content by digest, which no push can move."""
        return ":" in self.tag

    @property
    def host(self) -> str:
        """The host and port that answer for the registry."""
        return _HUB_API if self.registry == _HUB else self.registry

    @property
    def is_loopback(self) -> bool:
        """Whether the registry runs on this machine, where plain HTTP is the custom."""
        name = self.registry.rpartition(":")[0] if re.search(r":\d+$", self.registry) else self.registry
        try:
            return ipaddress.ip_address(name.strip("[]")).is_loopback
        except ValueError:
            return name == "localhost"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Return the reference that ``text`` spells; without a tag it is ``latest``, as docker has it.

        Raises:
            UsageError: naming the part that is missing or misspelled.
        """
        if "://" in text:
            raise UsageError(
                f"'{text}' is an address, not REGISTRY/NAME:TAG", hint=f"leave out {text.split('//')[0]}//"
            )
        first, slash, _ = text.partition("/")
        if not slash or not re.search(r"[.:]", first):
            raise UsageError(f"'{text}' names no registry: expected REGISTRY/NAME:TAG", hint=_EXAMPLE)
        try:
            parts = Container(text)
        except ValueError:
            parts = None
        if parts is None or parts.registry != first:  # oras looks for a reference anywhere in the text
            raise UsageError(f"'{text}' cannot be read as REGISTRY/NAME:TAG", hint=_EXAMPLE)
        found = cls(str(parts.registry), str(parts.api_prefix), str(parts.digest or parts.tag))
        found._check(text)
        return found

    def _check(self, text: str) -> None:
        if not _REPOSITORY.fullmatch(self.repository):
            raise UsageError(
                f"'{text}': '{self.repository}' cannot name a repository: expected lower-case letters and digits, "
                "with '.', '_', '-' or '/' between them",
                hint=_EXAMPLE,
            )
        if self.is_pinned:
            try:
                Digest.parse(self.tag)
            except ValueError as error:
                raise UsageError(f"'{text}': '{self.tag}' is not sha256: and 64 hex digits", hint=_EXAMPLE) from error
        elif not _TAG.fullmatch(self.tag):
            raise UsageError(
                f"'{text}': '{self.tag}' cannot be a tag: expected letters, digits, '.', '_' or '-' (at most 128)",
                hint=_EXAMPLE,
            )
