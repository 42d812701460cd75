"""Trainings seen from outside: started as commands of their own, and followed by what they write.

A training is a process, never a thread of whoever watches: a server keeps answering while it runs, and a training in a
terminal is followed in the same way, by the log of steps in its run's folder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lamina.errors import StackError
from lamina.ops.steps import PLACE, STEPS, read_steps
from lamina.refs import check_name
from lamina.serve.page.workshop import Point, Training
from lamina.stack.store import Store

__all__ = ["Trainings", "thin"]

_MOST_POINTS = 400
_RATE_STEPS = 10
_LOG_LINES = 200
_KEPT = 10  # ended trainings that are still shown

How = Literal["train", "update"]


@dataclass(slots=True)
class _Job:
    """A training that was started here."""

    id: str
    title: str
    process: subprocess.Popen[bytes]
    folder: Path
    stopped: bool = False


class Trainings:
    """The trainings of one project: those started through this object, and those that run in a terminal."""

    def __init__(self, store: Store) -> None:
        """Watch the runs of ``store``."""
        self._store = store
        self._jobs: list[_Job] = []

    def start(self, file: str, how: How, name: str) -> str:
        """Start ``lamina train`` or ``lamina update`` on a file of the project; return the training's id.

        Raises:
            UsageError: if ``name`` cannot name a layer.
            StackError: if a training that was started here still runs.
        """
        check_name(name)
        if any(job.process.poll() is None for job in self._jobs):
            raise StackError("a training is running already", hint="wait until it has ended, or stop it")
        number = f"{time.time_ns():x}"
        folder = self._store.root / "runs" / f"page-{number}"
        folder.mkdir(parents=True)
        line = [sys.executable, "-m", "lamina.cli.main", how, file, "--as", name, "--json"]
        environment = os.environ | {PLACE: str(folder / STEPS)}
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            process = subprocess.Popen(
                line, cwd=self._store.project, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
        self._jobs = [*self._jobs, _Job(number, f"{how} {file} as {name}", process, folder)][-_KEPT:]
        return number

    def stop(self, training: str) -> None:
        """Let a training that was started here end after a checkpoint; the same order goes on from there.

        Raises:
            StackError: if no such training runs.
        """
        job = next((job for job in self._jobs if job.id == training and job.process.poll() is None), None)
        if job is None:
            raise StackError("no such training is running here", hint="it may have ended meanwhile")
        job.stopped = True
        job.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Stop what still runs: whoever started it is leaving."""
        for job in self._jobs:
            if job.process.poll() is None:
                self.stop(job.id)

    def all(self) -> list[Training]:
        """Return the trainings that were started here, newest first, then those that run elsewhere."""
        here = [_describe(job) for job in reversed(self._jobs)]
        mine = {job.process.pid for job in self._jobs}
        elsewhere = [
            Training(id=name, title=f"run {name} in a terminal", state="running", here=False, **_progress(steps))
            for pid, name, steps in _running(self._store.root / "runs")
            if pid not in mine
        ]
        return [*here, *elsewhere]


def thin(points: Sequence[Point], most: int) -> tuple[Point, ...]:
    """Return about ``most`` of the points, evenly spread, with every held-out loss and the last one among them."""
    every = -(-len(points) // most) if points else 1
    last = len(points) - 1
    return tuple(
        point for place, point in enumerate(points) if place % every == 0 or place == last or point.heldout is not None
    )


def _running(folder: Path) -> list[tuple[int, str, list[dict[str, Any]]]]:
    """Return process, name and steps of the runs whose process is alive."""
    found = []
    for path in sorted(folder.glob(f"*/{STEPS}")):
        steps = read_steps(path)
        if steps and _is_alive(steps[-1]["pid"]):
            found.append((steps[-1]["pid"], path.parent.name, steps))
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _describe(job: _Job) -> Training:
    code = job.process.poll()
    outcome = None if code is None else _outcome(job.folder / "out")
    state: Any = "running"
    if code is not None:
        state = _state(job, code, outcome)
    log = _lines(job.folder / "err")
    return Training(
        id=job.id,
        title=job.title,
        state=state,
        here=True,
        log=tuple(log[-_LOG_LINES:]),
        outcome=outcome,
        **_progress(read_steps(job.folder / STEPS)),
    )


def _state(job: _Job, code: int, outcome: dict[str, Any] | None) -> str:
    if outcome is not None and "accepted" in outcome:
        if outcome["layer"] is None:
            return "current"
        return "accepted" if outcome["accepted"] else "refused"
    return "stopped" if job.stopped or code == 130 else "failed"


def _outcome(path: Path) -> dict[str, Any] | None:
    lines = _lines(path)
    try:
        value = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _lines(path: Path) -> list[str]:
    """Return what was written; nothing once the runs are gone, as after ``lamina forget``."""
    try:
        return path.read_text("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []


def _progress(steps: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not steps:
        return {}
    recent = steps[-_RATE_STEPS:]
    seconds = sum(record["elapsed_s"] for record in recent)
    left = steps[-1]["steps"] - steps[-1]["step"]
    return {
        "points": thin([Point(each["step"], each["loss"], each["heldout_loss"]) for each in steps], _MOST_POINTS),
        "steps": steps[-1]["steps"],
        "tokens_per_s": sum(record["tokens"] for record in recent) / seconds if seconds > 0 else 0.0,
        "eta_s": seconds / len(recent) * left,
    }
