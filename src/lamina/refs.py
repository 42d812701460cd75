"""Names for what the store holds: digests and stack expressions, as frozen values that parse and print themselves.

Grammar of a stack expression (what people type wherever a stack is asked for)::

    main                    a ref
    main~2                  the stack that ref held two moves earlier
    main@v2                 the stack that the tag v2 holds, which must be one that main has held
    main@tools              that stack up to and with its layer tools, by name or digest prefix
    sha256:9c1e04..         a stack by digest, or an unambiguous prefix of at least four digits
    base                    the base alone
    base+tools+facts:0.5    layers added up by hand, by name or digest prefix, with optional scales
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lamina.errors import UsageError

__all__ = ["BASE", "Digest", "LayerTerm", "StackExpression", "check_name", "did_you_mean"]

BASE = "base"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_HEX = re.compile(r"[0-9a-f]{64}")


def check_name(name: str, *, what: str = "layer") -> str:
    """Return ``name`` if it can name a layer or ref: a letter, then letters, digits, dot, dash or underscore, up to 64.

    Raises:
        UsageError: if it cannot, or if it is the reserved word ``base``.
    """
    if name == BASE:
        raise UsageError(f"'{BASE}' always means the bare base and cannot name a {what}", hint="choose another name")
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"'{name}' cannot name a {what}: expected a letter, then letters, digits, '.', '-' or '_' (at most 64)",
            hint="for example: --as tools",
        )
    return name


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """Return a question that names the known words nearest to ``text``, empty if none is near."""
    near = difflib.get_close_matches(text, sorted(set(known)), n=3)
    return f"did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A sha256 digest in OCI spelling, ``sha256:<64 hex digits>``."""

    hex: str

    def __post_init__(self) -> None:
        if not _HEX.fullmatch(self.hex):
            raise ValueError(f"not a sha256 digest: {self.hex!r}")

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @property
    def short(self) -> str:
        """The first 12 hex digits, enough for people."""
        return self.hex[:12]

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Return the digest spelled ``sha256:<hex>``. Raises ValueError for anything else."""
        algorithm, _, hexdigits = text.partition(":")
        if algorithm != "sha256":
            raise ValueError(f"not a sha256 digest: {text!r}")
        return cls(hexdigits)

    @classmethod
    def of_bytes(cls, content: bytes) -> Digest:
        """Return the digest of ``content``."""
        return cls(hashlib.sha256(content).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Digest:
        """Return the digest of the file's content, read in pieces."""
        with path.open("rb") as stream:
            return cls(hashlib.file_digest(stream, "sha256").hexdigest())


@dataclass(frozen=True, slots=True)
class LayerTerm:
    """One summand of a stack expression: a layer's name or digest prefix, and a scale."""

    layer: str
    scale: float = 1.0

    def __str__(self) -> str:
        # repr loses no digit, and a positive exponent must not print the '+' that separates terms.
        return self.layer if self.scale == 1.0 else f"{self.layer}:{self.scale!r}".replace("e+", "e")


@dataclass(frozen=True, slots=True)
class StackExpression:
    """A parsed stack expression: a root (ref or digest), steps back, a tag or layer to cut at, and terms to add."""

    root: str
    back: int = 0
    terms: tuple[LayerTerm, ...] = ()
    at: str = ""

    def __str__(self) -> str:
        back = f"~{self.back}" if self.back else ""
        at = f"@{self.at}" if self.at else ""
        return "+".join([self.root + back + at, *map(str, self.terms)])

    @classmethod
    def parse(cls, text: str) -> StackExpression:
        """Return the expression that ``text`` spells (grammar in the module docstring).

        Raises:
            UsageError: naming the part that cannot be read.
        """
        root, *summands = text.strip().split("+")
        match = re.fullmatch(r"((?:sha256:)?[A-Za-z0-9._-]+?)(?:~(\d*))?(?:@([A-Za-z0-9._-]+))?", root)
        if not match:
            raise UsageError(
                f"'{text}' is not a stack: cannot read '{root}'", hint="for example: main, main~1, base+tools"
            )
        back = 0 if match[2] is None else int(match[2] or 1)
        terms = tuple(_parse_term(part, text) for part in summands)
        return cls(root=match[1], back=back, at=match[3] or "", terms=terms)


def _parse_term(part: str, text: str) -> LayerTerm:
    layer, colon, scale = part.partition(":")
    try:
        value = float(scale) if colon else 1.0
    except ValueError:
        value = float("nan")
    if not layer or value != value or value in (float("inf"), float("-inf")):
        raise UsageError(f"'{text}' is not a stack: cannot read '{part}'", hint="for example: base+tools+facts:0.5")
    return LayerTerm(layer, value)
