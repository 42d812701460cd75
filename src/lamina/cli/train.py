"""``lamina train``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import recipe as flags
from lamina.cli.progress import TerminalProgress


def run(
    files: Annotated[list[Path], typer.Argument(help="JSONL, JSON, CSV, Parquet or text")],
    name: Annotated[str, typer.Option("--as", help="the layer's name")],
    guard: flags.Guard = None,
    rank: flags.Rank = None,
    learning_rate: flags.LearningRate = None,
    epochs: flags.Epochs = None,
    batch_rows: flags.BatchRows = None,
    max_length: flags.MaxLength = None,
    replay: flags.Replay = None,
    seed: flags.Seed = None,
    accept: flags.Accept = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Train a new layer on top of main; it gets in if its suite improves and no guard gets worse."""
    given = flags.given(locals())
    from lamina.config import make_recipe
    from lamina.ops.project import open_project
    from lamina.ops.rows import prepare_rows, read_files
    from lamina.ops.train import train_layer
    from lamina.refs import check_name

    check_name(name)
    project = open_project(Path(), TerminalProgress())
    recipe, origins = make_recipe(project.settings, given)
    with project.working("train"):
        found, rows = read_files(project, files)
        data = prepare_rows(project, found, rows, recipe)
        result = train_layer(
            project,
            data,
            name=name,
            recipe=recipe,
            origins=origins,
            guards=guard or (),
            accept=accept,
            remedies=remedies,
        )
    flags.report(result, as_json=json_)
