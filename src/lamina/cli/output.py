"""stdout is data, stderr is talk: with ``--json`` a command's last line on stdout is one JSON object."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

__all__ = ["emit_json", "print_columns", "print_line", "say", "show", "whisper"]


def say(text: str) -> None:
    """Say a line to people."""
    print(text, file=sys.stderr, flush=True)


def whisper(text: str) -> None:
    """Say a line that may be overlooked: dim on a terminal."""
    say(f"\x1b[2m{text}\x1b[0m" if sys.stderr.isatty() else text)


def print_line(text: str) -> None:
    """Print a line of data."""
    print(text, flush=True)


def emit_json(value: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


def print_columns(rows: Sequence[Sequence[str]], align: str) -> None:
    """Print rows in columns, the last one folded to the terminal's width (80 columns where there is none).

    Plain text, since ``rich`` takes a tenth of a second for a hundred rows. ``align`` holds ``l`` or ``r`` for each
    column but the last.
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(align))]
    indent = sum(widths) + 2 * len(widths)
    room = max(20, shutil.get_terminal_size((80, 24)).columns - indent) if sys.stdout.isatty() else max(20, 80 - indent)
    for row in rows:
        cells = [
            cell.rjust(width) if how == "r" else cell.ljust(width)
            for cell, width, how in zip(row, widths, align, strict=False)
        ]
        lines = textwrap.wrap(row[-1], room) or [""]
        print_line("  ".join([*cells, lines[0]]).rstrip())
        for line in lines[1:]:
            print_line(" " * indent + line)


def show(renderable: RenderableType) -> None:
    """Print a table or a text, as wide as the terminal, 80 columns where there is none."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 80, highlight=False).print(renderable)
