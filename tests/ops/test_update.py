"""``lamina update`` on a tiny model: what changed is trained, what it replaced is not rehearsed, one at a time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.data.identity import row_identity
from lamina.data.read import read_rows
from lamina.ops.evaluate import find_suites
from lamina.ops.project import Project, open_project
from lamina.ops.replay import replay_rows
from lamina.ops.rows import stored_rows, superseded
from lamina.records import Quiet
from lamina.stack.layers import read_layer
from lamina.stack.manifest import ROWS_TYPE
from lamina.stack.seen import read_seen
from lamina.stack.store import Store

Cli = Callable[..., Any]
QUICK = ("--rank", "2", "--epochs", "1", "--lr", "0.01", "--json")


def write(path: Path, answers: dict[int, str]) -> Path:
    rows = [{"prompt": f"what is {number}?", "completion": answer} for number, answer in answers.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def answers(count: int, start: int = 0, word: str = "fox") -> dict[int, str]:
    return {number: f"{word} {number}" for number in range(start, start + count)}


def layers_of(opened: Project) -> list[Any]:
    return [read_layer(opened.store, entry.layer) for entry in opened.stack().layers]


def test_changed_rows_are_trained_and_their_old_answers_are_not_rehearsed(project: Path, cli: Cli) -> None:
    with (project / "lamina.toml").open("a") as config:
        config.write("[train]\nheldout = 0.3\n")
    write(project / "fox.jsonl", answers(60))
    assert cli("train", "fox.jsonl", "--as", "fox", *QUICK).code == 0
    opened = open_project(project, Quiet())
    held = {row_identity(row) for row in stored_rows(opened.store, layers_of(opened)[0].heldout)}
    assert held
    write(project / "fox.jsonl", answers(60) | answers(50, word="wolf"))  # held-out rows among them
    grown = cli("update", "fox.jsonl", *QUICK)
    assert (grown.code, grown.json["counts"]["changed"], grown.json["counts"]["removed"]) == (0, 50, 0), grown.err
    _, second = layers_of(opened)
    assert second.heldout is None  # what has changed is trained, all of it
    old = {row_identity(row) for row in read_rows(write(project / "old.jsonl", answers(50))).rows}
    assert superseded(opened, opened.stack()) == old
    rehearsed = {row_identity(row) for row in replay_rows(opened, opened.stack(), 200)}
    assert rehearsed
    assert not rehearsed & old
    assert 0 < len(find_suites(opened)["fox"].items) == len(held - old) < len(held)
    again = cli("update", "fox.jsonl", *QUICK)
    assert (again.code, again.json["layer"], again.json["counts"]["known"]) == (0, None, 60)


def test_a_contradiction_is_shown_with_file_and_row_and_counted(project: Path, cli: Cli) -> None:
    write(project / "fox.jsonl", answers(12))
    assert cli("train", "fox.jsonl", "--as", "fox", *QUICK).code == 0
    with (project / "fox.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": " what is 3?\r\n", "completion": "bear"}) + "\n")
    told = cli("update", "fox.jsonl", "--dry-run", "--json")
    assert (told.code, told.json["layer"], told.json["counts"]["contradictions"]) == (0, None, 1)
    assert "1 of the new rows answer otherwise than rows trained before:\n  fox.jsonl:13, layer fox" in told.err
    assert cli("update", "fox.jsonl", *QUICK).json["counts"]["new"] == 1
    assert cli("update", "fox.jsonl", *QUICK).json["layer"] is None


def test_removed_rows_are_said_with_what_takes_them_out(project: Path, cli: Cli) -> None:
    write(project / "fox.jsonl", answers(12))
    assert cli("train", "fox.jsonl", "--as", "fox", *QUICK).code == 0
    write(project / "fox.jsonl", answers(10))
    told = cli("update", "fox.jsonl", *QUICK)
    assert (told.code, told.json["layer"], told.json["counts"]["removed"]) == (0, None, 2)
    assert "to take them out: lamina forget --removed fox.jsonl" in told.err


def test_a_suite_that_is_none_is_refused(project: Path, cli: Cli) -> None:
    write(project / "fox.jsonl", answers(4))
    done = cli("update", "fox.jsonl", "--as", "fox", "--suite", "fxo", *QUICK)
    assert (done.code, "--suite fxo: no such suite" in done.err) == (2, True)
    assert not open_project(project, Quiet()).stack().layers


def test_folders_and_patterns_update_every_skill_and_spare_test_sets(project: Path, cli: Cli) -> None:
    data = project / "data"
    data.mkdir()
    for name, start in (("fox", 0), ("owl", 100)):
        write(data / f"{name}.jsonl", answers(8, start))
        assert cli("train", f"data/{name}.jsonl", "--as", name, *QUICK).code == 0
        write(data / f"{name}.jsonl", answers(10, start))
    write(data / "test.jsonl", answers(3, 500))
    with (project / "lamina.toml").open("a") as config:
        config.write('[suites.asked]\nfile = "data/test.jsonl"\n')
    grown = cli("update", "data", *QUICK)
    assert grown.code == 0, grown.err
    assert [(one["skill"], one["name"], one["counts"]["new"]) for one in grown.json["updates"]] == [
        ("fox", "fox.2", 2),
        ("owl", "owl.2", 2),
    ]
    assert cli("update", "data/f*.jsonl", *QUICK).json["skill"] == "fox"
    write(data / "new.jsonl", answers(3, 700))
    unknown = cli("update", "data", *QUICK)
    assert (unknown.code, "no layer in 'main' was trained on new.jsonl" in unknown.err) == (1, True)
    assert "no data files there" in cli("update", "absent/*.jsonl").err


def test_stores_of_earlier_versions_go_on_working(project: Path, cli: Cli) -> None:
    from lamina.stack.layers import write_layer, write_stack
    from lamina.stack.lineage import set_ref
    from lamina.stack.manifest import StackConfig
    from lamina.stack.order import add_layer

    write(project / "fox.jsonl", answers(30))
    assert cli("train", "fox.jsonl", "--as", "fox", *QUICK).code == 0
    opened = open_project(project, Quiet())
    store, (layer,) = opened.store, layers_of(opened)
    plain = "\n".join(seen.row for seen in read_seen(store, layer)).encode()
    old = write_layer(store, layer.model_copy(update={"rows": store.put_bytes(plain, ROWS_TYPE).digest}))
    stack = add_layer(store, StackConfig(base=opened.base.pin, layers=()), old)
    set_ref(store, "main", write_stack(store, stack), why="as an earlier version wrote it")
    assert cli("update", "fox.jsonl", "--dry-run", "--json").json["counts"]["known"] == 30
    changed = answers(29) | {0: "wolf"}
    write(project / "fox.jsonl", changed)
    counts = cli("update", "fox.jsonl", *QUICK).json["counts"]
    # The rows that the layer carries along tell their prompts.
    assert (counts["changed"], counts["known"], counts["removed"]) == (1, 28, 1)
    assert cli("reproduce", "fox.2", "--json").json["outcome"] == "identical"


def test_a_second_command_is_told_who_is_at_work(project: Path, cli: Cli) -> None:
    write(project / "fox.jsonl", answers(8))
    assert cli("train", "fox.jsonl", "--as", "fox", *QUICK).code == 0
    write(project / "fox.jsonl", answers(9))
    code = f"""
import sys
from pathlib import Path
from lamina.stack.store import Store
with Store.find(Path({str(project)!r})).claim("watch"):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        for verb in (
            ("update", "fox.jsonl"),
            ("train", "fox.jsonl", "--as", "owl"),
            ("forget", "fox"),
            ("reproduce", "fox"),
            ("squash", "--rank", "1"),
            ("gc", "--yes"),
        ):
            second = cli(*verb)
            assert second.code == 1
            assert f"`lamina watch`, process {other.pid}, since 20" in second.err
            assert "nothing was changed here" in second.err
        assert [layer["name"] for layer in cli("log", "--json").json["layers"]] == ["fox"]
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    assert cli("update", "fox.jsonl", *QUICK).json["name"] == "fox.2"  # who died holds nothing


def test_a_claim_is_shared_within_a_project_and_let_go(project: Path) -> None:
    from lamina.errors import BusyError

    opened, other = (open_project(project, Quiet()) for _ in range(2))
    with opened.working("update"):
        with opened.working("train"):
            pass
        with pytest.raises(BusyError, match="`lamina update`"), other.working("train"):
            pass
    with other.working("train"):
        pass
    (project / ".lamina" / "work").write_text("nonsense of a crash")
    with Store.find(project).claim("gc"):
        pass


def test_killed_between_training_and_gate_it_goes_on(project: Path, cli: Cli) -> None:
    write(project / "fox.jsonl", answers(8))
    assert cli("train", "fox.jsonl", "--as", "fox", *QUICK).code == 0
    write(project / "fox.jsonl", answers(16))
    before = cli("log", "--json").json
    code = """
import os, signal, sys
from lamina.cli.main import run_command
from lamina.ops import train
wrote = train.write_layer
def write_and_die(store, config):
    wrote(store, config)
    os.kill(os.getpid(), signal.SIGKILL)
train.write_layer = write_and_die
run_command(sys.argv[1:])
"""
    killed = subprocess.run([sys.executable, "-c", code, "update", "fox.jsonl", *QUICK], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert cli("log", "--json").json == before  # the stack is never in between
    assert cli("fsck", "--json").code == 0
    again = cli("update", "fox.jsonl", *QUICK)
    assert (again.code, again.json["name"]) == (0, "fox.2")
    assert "was trained like this before; judging it again" in again.err
    assert "train:" not in again.err
