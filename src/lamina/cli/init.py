"""``lamina init``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress

_SHOWN = {"digest", "family", "quantise"}


class Quantise(StrEnum):
    """How the frozen linear maps are held in memory."""

    none = "none"
    int8 = "int8"
    nf4 = "nf4"


def run(
    base: Annotated[str, typer.Option(help="bundled name, folder, .gguf file or hub id")] = "smollm2-135m",
    revision: Annotated[str | None, typer.Option(help="revision of a hub id")] = None,
    quantise: Annotated[Quantise, typer.Option(help="hold the base in 8 or 4 bits, for good")] = Quantise.none,
    folder: Annotated[Path, typer.Argument(help="where the project goes")] = Path(),
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Start a project: lamina.toml and .lamina/, on a base that is pinned by its content."""
    from lamina.config import BaseSettings
    from lamina.ops.project import init_project

    settings = BaseSettings(model=base, revision=revision, quantise=quantise.value)
    project = init_project(folder, settings, TerminalProgress())
    pin = project.base.pin
    if json_:
        emit_json({"project": str(project.store.project), "base": pin.name} | pin.model_dump(include=_SHOWN))
        return
    held = "" if quantise is Quantise.none else f", held as {pin.quantise}"
    say(f"Project in {project.store.project.resolve()} on {pin.name} ({pin.family}, {pin.digest[7:19]}{held})")
    say("Next: lamina train FILE --as NAME")
