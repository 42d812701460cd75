"""The steps of a run, in a file of its folder that others read while the run goes on."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from lamina.records import StepRecord
from lamina.stack.store import disk_errors

__all__ = ["PLACE", "STEPS", "log_step", "read_steps"]

STEPS = "steps.jsonl"
PLACE = "LAMINA_STEPS"
_FULL = "free some disk; the same command goes on from here"


def log_step(folder: Path, record: StepRecord) -> None:
    """Add a step to the log in a run's folder, with the process that made it.

    Whoever starts a command and wants to read the log after the run's folder has gone names another file in the
    environment, as ``LAMINA_STEPS``.

    Raises:
        MachineError: if the disk is full or read-only.
    """
    line = json.dumps({"pid": os.getpid(), **dataclasses.asdict(record)})
    path = Path(os.environ.get(PLACE) or folder / STEPS)
    with (
        disk_errors(path, "free some disk; the same command goes on from here"),
        path.open("a", encoding="utf-8") as log,
    ):
        log.write(f"{line}\n")


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Return the steps in a log, in order and each once: a run that was resumed may have made some of them again.

    There are none before the first step, nor once the run's folder is gone, as it is when the layer is written.
    """
    steps: list[dict[str, Any]] = []
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    for line in text[: text.rfind("\n") + 1].splitlines():
        record = json.loads(line)
        while steps and steps[-1]["step"] >= record["step"]:
            steps.pop()
        steps.append(record)
    return steps
