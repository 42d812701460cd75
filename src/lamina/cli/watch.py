"""``lamina watch``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamina.cli import recipe as flags
from lamina.cli.output import emit_json, say
from lamina.cli.progress import TerminalProgress

if TYPE_CHECKING:
    from lamina.ops.watch import Event


def run(
    paths: Annotated[list[Path], typer.Argument(help="folders, files and patterns; a new file name is a new skill")],
    settle: Annotated[float, typer.Option(min=0.1, max=86400.0, help="seconds that writes must rest")] = 2.0,
    polling: Annotated[bool, typer.Option("--polling", help="look again and again, as network folders need")] = False,
    once: Annotated[bool, typer.Option("--once", help="look once, and end")] = False,
    guard: flags.Guard = None,
    rank: flags.Rank = None,
    learning_rate: flags.LearningRate = None,
    epochs: flags.Epochs = None,
    batch_rows: flags.BatchRows = None,
    max_length: flags.MaxLength = None,
    replay: flags.Replay = None,
    seed: flags.Seed = None,
    json_: Annotated[bool, typer.Option("--json", help="print one JSON line for each event")] = False,
) -> None:
    """Keep the stack current: whenever files have changed, train what is new, through the gate. Ctrl-C ends it.

    It may be killed at any moment; what it missed is found when it starts again.
    """
    given = flags.given(locals())
    from lamina.config import make_recipe
    from lamina.ops.project import open_project
    from lamina.ops.watch import Watch, file_changes

    project = open_project(Path(), TerminalProgress())
    recipe, origins = make_recipe(project.settings, given)
    watch = Watch(project=project, paths=paths, recipe=recipe, origins=origins, guards=guard or ())
    changes = () if once else file_changes(paths, settle_s=settle, polling=polling)
    is_good = True
    for event in watch.follow(changes):
        is_good = is_good and event.kind in ("updated", "unchanged")
        if json_:
            emit_json(_record(event))
        else:
            _tell(event)
    if not is_good:
        raise typer.Exit(1)


def _tell(event: Event) -> None:
    if event.admission is not None:
        flags.describe(event.admission)
    elif event.kind == "unchanged":
        say(f"{event.skill}: up to date")
    else:
        say(f"{event.skill}: {event.kind}: {event.message}")


def _record(event: Event) -> dict[str, Any]:
    record: dict[str, Any] = {"event": event.kind, "skill": event.skill, "counts": event.counts}
    if event.message:
        record["message"] = event.message
    if event.admission is not None:
        record |= flags.as_record(event.admission)
    return record
