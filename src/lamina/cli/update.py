"""``lamina update``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lamina.cli import recipe as flags
from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress


def run(
    files: Annotated[list[Path], typer.Argument(help="the files as they are now")],
    skill: Annotated[str | None, typer.Option("--as", help="which layer's skill this updates")] = None,
    suite: Annotated[str | None, typer.Option(help="the suite that must improve; else the skill's")] = None,
    guard: flags.Guard = None,
    rank: flags.Rank = None,
    learning_rate: flags.LearningRate = None,
    epochs: flags.Epochs = None,
    batch_rows: flags.BatchRows = None,
    max_length: flags.MaxLength = None,
    replay: flags.Replay = None,
    seed: flags.Seed = None,
    accept: flags.Accept = False,
    remedies: flags.Remedies = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Train only the rows that no layer has seen, plus replay, as a new layer on top, through the gate."""
    given = flags.given(locals())
    from lamina.config import make_recipe
    from lamina.ops.project import open_project
    from lamina.ops.update import update

    project = open_project(Path(), TerminalProgress())
    recipe, origins = make_recipe(project.settings, given)
    result = update(
        project,
        files,
        recipe=recipe,
        origins=origins,
        skill=skill,
        suite=suite,
        guards=guard or (),
        accept=accept,
        remedies=remedies,
    )
    if result is None:
        say(f"nothing new: {project.branch} is up to date")
        if json_:
            emit_json({"layer": None, "accepted": True})
        return
    flags.report(result, as_json=json_)
