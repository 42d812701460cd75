"""``lamina update``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli import recipe as flags
from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.update import Updated


def run(
    files: Annotated[list[Path], typer.Argument(help="the files as they are now; also folders and patterns")],
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what has changed, and train nothing")] = False,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line")] = False,
) -> None:
    """Train only rows that no layer has seen, or whose answer has changed, plus replay, as a new layer on top.

    Files are told apart by name: each updates the skill whose layers were trained on a file of that name.
    """
    given = flags.given(locals())
    from lamina.config import make_recipe
    from lamina.ops.project import open_project
    from lamina.ops.update import Updated, find_data, look, skills_of, update

    project = open_project(Path(), TerminalProgress())
    if dry_run:
        groups = skills_of(project, find_data(project, files), skill)
        _report([Updated(looked=look(project, name, paths), admission=None) for name, paths in groups.items()], json_)
        return
    recipe, origins = make_recipe(project.settings, given)
    results = update(
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
    if all(result.admission is None for result in results):
        say(f"nothing new: {project.branch} is up to date")
    _report(results, json_)


def _report(results: list[Updated], as_json: bool) -> None:
    """Tell every skill's result; in JSON one object, that of the skill if there is just one."""
    told = [_tell(result) for result in results]
    if as_json:
        accepted = all(one["accepted"] for one in told)
        emit_json(told[0] if len(told) == 1 else {"updates": told, "accepted": accepted})
    if not all(one["accepted"] for one in told):
        raise typer.Exit(1)


def _tell(result: Updated) -> dict[str, Any]:
    more = {"skill": result.looked.skill, "counts": result.looked.counts()}
    if result.admission is None:
        return {"layer": None, "accepted": True, **more}
    flags.describe(result.admission)
    return {**flags.as_record(result.admission), **more}
