"""``lamina import``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import recipe as flags
from lamina.cli.progress import TerminalProgress


def run(
    folder: Annotated[Path, typer.Argument(help="a PEFT adapter: adapter_config.json, adapter_model.safetensors")],
    name: Annotated[str, typer.Option("--as", help="the layer's name")],
    licence: Annotated[str | None, typer.Option(help="its licence, where its README.md states none")] = None,
    guard: flags.Guard = None,
    accept: flags.Accept = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Put a LoRA from elsewhere on top of the branch; it gets in as a trained layer does."""
    from lamina.ops.import_layer import import_layer
    from lamina.ops.project import open_project
    from lamina.refs import check_name

    check_name(name)
    project = open_project(Path(), TerminalProgress())
    with project.working("import"):
        result = import_layer(project, folder, name=name, licence=licence, guards=guard or (), accept=accept)
    flags.report(result, as_json=json_)
