"""stdout is data, stderr is talk: with ``--json`` a command's last line on stdout is one JSON object."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["emit_json", "print_line", "say", "show"]


def say(text: str) -> None:
    """Say a line to people."""
    print(text, file=sys.stderr, flush=True)


def print_line(text: str) -> None:
    """Print a line of data."""
    print(text, flush=True)


def emit_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def show(renderable: RenderableType) -> None:
    """Print a table or a text, as wide as the terminal, 80 columns where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 80, highlight=False).print(renderable)
