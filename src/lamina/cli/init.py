"""``lamina init``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress


def run(
    base: Annotated[str, typer.Option(help="bundled name, folder, .gguf file or hub id")] = "smollm2-135m",
    revision: Annotated[str | None, typer.Option(help="revision of a hub id")] = None,
    folder: Annotated[Path, typer.Argument(help="where the project goes")] = Path(),
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Start a project: lamina.toml and .lamina/, on a base that is pinned by its content."""
    from lamina.config import BaseSettings
    from lamina.ops.project import init_project

    project = init_project(folder, BaseSettings(model=base, revision=revision), TerminalProgress())
    pin = project.base.pin
    if json_:
        emit_json({"project": str(project.store.project), "base": pin.name, "digest": pin.digest, "family": pin.family})
        return
    say(f"Project in {project.store.project.resolve()} on {pin.name} ({pin.family}, {pin.digest[7:19]})")
    say("Next: lamina train FILE --as NAME")
