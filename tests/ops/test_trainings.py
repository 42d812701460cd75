"""Trainings as others see them: by the log of their steps, and by what their command says in the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import StackError, UsageError
from lamina.ops import trainings as module
from lamina.ops.steps import STEPS, log_step, read_steps
from lamina.ops.trainings import Trainings, thin
from lamina.records import StepRecord
from lamina.serve.page.workshop import Point
from lamina.stack.store import Store


def step(number: int, loss: float = 1.0, heldout: float | None = None) -> StepRecord:
    return StepRecord(
        step=number, steps=40, loss=loss, learning_rate=1e-3, gradient_norm=1.0, tokens=100, trained_tokens=50,
        elapsed_s=0.5, pass_tokens=100, heldout_loss=heldout,
    )  # fmt: skip


def test_steps_that_a_resumed_run_made_again_count_once(tmp_path: Path) -> None:
    for number, loss in ((1, 3.0), (2, 2.5), (3, 2.0), (2, 2.4), (3, 1.9)):
        log_step(tmp_path, step(number, loss))
    assert [(each["step"], each["loss"]) for each in read_steps(tmp_path / STEPS)] == [(1, 3.0), (2, 2.4), (3, 1.9)]


def test_half_a_line_and_no_file_are_no_steps(tmp_path: Path) -> None:
    assert read_steps(tmp_path / STEPS) == []
    log_step(tmp_path, step(1))
    with (tmp_path / STEPS).open("a") as log:
        log.write('{"pid": 1, "ste')
    assert [each["step"] for each in read_steps(tmp_path / STEPS)] == [1]


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 50))
def test_thinned_points_keep_the_ends_and_what_was_measured(measured: list[bool], most: int) -> None:
    points = [Point(number, 1.0, 2.0 if held else None) for number, held in enumerate(measured)]
    kept = thin(points, most)
    assert list(kept) == sorted(kept, key=lambda point: point.step)
    assert {point.step for point in points if point.heldout is not None} <= {point.step for point in kept}
    assert [*kept[:1], *kept[-1:]] == [*points[:1], *points[-1:]]
    assert len(kept) <= most + 1 + sum(measured)


def test_a_run_elsewhere_is_seen_while_its_process_lives(tmp_path: Path) -> None:
    store = Store.create(tmp_path)
    folder = store.root / "runs" / "abc"
    folder.mkdir(parents=True)
    for number in range(1, 21):
        log_step(folder, step(number, heldout=2.0 if number == 10 else None))
    (seen,) = Trainings(store).all()
    assert (seen.id, seen.state, seen.here, seen.steps) == ("abc", "running", False, 40)
    assert seen.points[9] == Point(10, 1.0, 2.0)
    assert (seen.tokens_per_s, seen.eta_s) == (200.0, 10.0)

    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    gone = (folder / STEPS).read_text().replace(f'"pid": {os.getpid()}', f'"pid": {int(done.stdout)}')
    (folder / STEPS).write_text(gone)
    assert Trainings(store).all() == []


ENDS = {
    "accepted": (0, {"layer": "sha256:1", "accepted": True}),
    "refused": (1, {"layer": "sha256:1", "accepted": False}),
    "current": (0, {"layer": None, "accepted": True}),
    "failed": (1, {"error": "no", "hint": ""}),
    "stopped": (130, None),
}


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that makes ``lamina`` a script."""
    run = subprocess.Popen

    def stand_in(script: str) -> None:
        def start(line: list[str], **kwargs: Any) -> Any:
            return run([sys.executable, "-c", script, *line[3:]], **kwargs)

        monkeypatch.setattr(module.subprocess, "Popen", start)

    return stand_in


@pytest.mark.parametrize("state", ENDS)
def test_how_it_ended(state: str, tmp_path: Path, command: Callable[[str], None]) -> None:
    code, outcome = ENDS[state]
    said = "" if outcome is None else json.dumps(outcome)
    command(f"import sys; print(sys.argv[1:]); print({said!r}); print('hm', file=sys.stderr); sys.exit({code})")
    trainings = Trainings(Store.create(tmp_path))
    trainings.start("a.jsonl", "train", "a")
    trainings._jobs[0].process.wait()
    (seen,) = trainings.all()
    assert (seen.state, seen.outcome, seen.log) == (state, outcome, ("hm",))
    assert seen.title == "train a.jsonl as a"


def test_one_at_a_time_and_stopped_by_an_interrupt(tmp_path: Path, command: Callable[[str], None]) -> None:
    command("import signal, sys; signal.signal(2, lambda *_: sys.exit(130)); print('go', flush=True); signal.pause()")
    trainings = Trainings(Store.create(tmp_path))
    first = trainings.start("a.jsonl", "train", "a")
    with pytest.raises(StackError, match="running already"):
        trainings.start("b.jsonl", "train", "b")
    out = trainings._jobs[0].folder / "out"
    while not out.read_bytes():
        os.sched_yield()
    trainings.close()
    trainings._jobs[0].process.wait()
    assert [each.state for each in trainings.all()] == ["stopped"]
    with pytest.raises(StackError, match="no such training"):
        trainings.stop(first)


def test_a_name_that_cannot_be_one_starts_nothing(tmp_path: Path) -> None:
    trainings = Trainings(Store.create(tmp_path))
    with pytest.raises(UsageError, match="cannot name a layer"):
        trainings.start("a.jsonl", "train", "--accept")
    assert trainings.all() == []
