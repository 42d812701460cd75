"""``lamina data show``: a file as the model will see it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, print_line, show
from lamina.cli.progress import TerminalProgress


def run(
    action: Annotated[str, typer.Argument(help="show")],
    file: Annotated[Path, typer.Argument(help="a data file")],
    row: Annotated[int, typer.Option(min=1, help="which row, from 1")] = 1,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Show one row rendered by the base's template: trained tokens are underlined and in brackets."""
    from lamina.data.read import read_rows
    from lamina.errors import DataError, UsageError
    from lamina.ops.project import open_project
    from lamina.ops.rows import render_rows

    if action != "show":
        raise UsageError(f"data {action}: expected 'show'", hint=f"lamina data show {file}")
    found = read_rows(file)
    if row > len(found.rows):
        raise DataError(file, f"--row {row}: the file has {len(found.rows)} rows", hint="choose a smaller row")
    project = open_project(Path(), TerminalProgress())
    rendered = render_rows(project, [found.rows[row - 1]], project.loaded.context)[0]
    pieces = _runs(project.loaded.tokenizer, rendered.ids, rendered.trained)
    if json_:
        emit_json(
            {
                "tokens": len(rendered.ids),
                "trained": rendered.trained_count,
                "lost": rendered.lost,
                "parts": [{"text": text, "trained": trained} for text, trained in pieces],
            }
        )
        return
    from rich.text import Text

    text = Text()
    for piece, trained in pieces:
        text.append(f"[{piece}]" if trained else piece, style="bold underline green" if trained else "dim")
    print_line(found.describe())
    show(text)
    print_line(f"{len(rendered.ids)} tokens, {rendered.trained_count} trained (in brackets)")


def _runs(tokenizer: object, ids: tuple[int, ...], trained: tuple[bool, ...]) -> list[tuple[str, bool]]:
    from itertools import groupby

    decode = tokenizer.decode  # type: ignore[attr-defined]
    pairs = groupby(zip(ids, trained, strict=True), key=lambda pair: pair[1])
    return [(decode([token for token, _ in group]), flag) for flag, group in pairs]
