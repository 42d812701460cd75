"""``lamina watch`` with changes that the test makes up: when it looks, what it tries again, what a kill loses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lamina.config import Recipe
from lamina.errors import DataError
from lamina.ops import watch as module
from lamina.ops.project import open_project
from lamina.ops.watch import Event, Watch, file_changes
from lamina.records import Quiet
from lamina.stack.store import Store

Cli = Callable[..., Any]
RECIPE = Recipe(rank=2, epochs=1.0, learning_rate=0.01, batch_rows=8)
QUIET: tuple[Path, ...] = ()


@pytest.fixture
def data(project: Path) -> Path:
    folder = project / "data"
    folder.mkdir()
    return folder


def write(path: Path, count: int, start: int = 0) -> Path:
    rows = [{"prompt": f"what is {number}?", "completion": "fox"} for number in range(start, start + count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def watching(data: Path) -> Watch:
    return Watch(project=open_project(data, Quiet()), paths=[data], recipe=RECIPE, origins={})


def told(events: Iterator[Event] | list[Event]) -> list[tuple[str, str]]:
    return [(event.kind, event.skill) for event in events]


def test_it_looks_at_the_start_and_when_writes_have_settled(data: Path) -> None:
    fox = write(data / "fox.jsonl", 8)

    def changes() -> Iterator[tuple[Path, ...]]:
        yield QUIET  # nothing has changed: no look
        for count in (9, 10, 12):  # a file that is still being written
            write(fox, count)
            yield (fox,)
        assert len(project.stack().layers) == 1
        yield QUIET
        yield QUIET
        write(data / "owl.jsonl", 5, start=100)
        yield (data / "owl.jsonl",)
        yield QUIET

    watch = watching(data)
    project = watch.project
    assert told(watch.follow(changes())) == [("updated", "fox"), ("updated", "fox"), ("updated", "owl")]
    assert [entry.name for entry in project.stack().layers] == ["fox", "fox.2", "owl"]


def test_what_is_written_during_the_first_look_is_not_missed(data: Path) -> None:
    write(data / "fox.jsonl", 8)
    watch = watching(data)
    events = []
    for event in watch.follow([QUIET, QUIET]):
        if not events:
            write(data / "owl.jsonl", 5, start=100)  # of which nobody is told
        events.append((event.kind, event.skill))
    assert events == [("updated", "fox"), ("updated", "owl")]


def test_a_kill_loses_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, start in (("fox", 0), ("owl", 100)):
        write(data / f"{name}.jsonl", 6, start)
    first = watching(data).follow(())
    assert told([next(first)]) == [("updated", "fox")]
    first.close()  # gone after the first of two
    assert told(watching(data).follow(())) == [("unchanged", "fox"), ("updated", "owl")]
    assert told(watching(data).follow(())) == [("unchanged", "fox"), ("unchanged", "owl")]


def test_refused_rows_are_not_tried_again_before_the_file_changes(data: Path, cli: Cli) -> None:
    suite = write(data.parent / "asked.jsonl", 4, start=50)
    with (data.parent / "lamina.toml").open("a") as config:
        config.write(f'[suites.fox]\nfile = "{suite.name}"\nmax_tokens = 2\n')
    fox, owl = write(data / "fox.jsonl", 6), write(data / "owl.jsonl", 6, start=100)

    def changes() -> Iterator[tuple[Path, ...]]:
        write(owl, 7, start=100)
        yield (owl,)
        yield QUIET
        write(fox, 7)
        yield (fox,)
        yield QUIET

    weak = watching(data)
    weak.recipe = RECIPE.model_copy(update={"learning_rate": 1e-7})
    assert told(weak.follow(changes())) == [
        ("refused", "fox"),
        ("updated", "owl"),
        ("updated", "owl"),
        ("refused", "fox"),
    ]


def test_a_broken_file_is_said_and_the_others_go_on(data: Path) -> None:
    fox = write(data / "fox.jsonl", 6)
    fox.write_text(fox.read_text() + '{"prompt": "half')
    write(data / "owl.jsonl", 6, start=100)
    write(data / "9 lives.jsonl", 6, start=200)

    def changes() -> Iterator[tuple[Path, ...]]:
        yield (data / "owl.jsonl",)  # touched, not changed
        yield QUIET
        write(fox, 7)
        yield (fox,)
        yield QUIET

    events = list(watching(data).follow(changes()))
    assert told(events) == [("error", "9 lives"), ("error", "fox"), ("updated", "owl"), ("updated", "fox")]
    assert "'9 lives' cannot name a layer" in events[0].message
    assert "fox.jsonl, row 7: broken JSON" in events[1].message


def test_who_is_at_work_is_waited_for(data: Path) -> None:
    write(data / "fox.jsonl", 6)
    other = Store.find(data).claim("train")

    def changes() -> Iterator[tuple[Path, ...]]:
        yield QUIET
        other.__exit__(None, None, None)
        yield QUIET
        yield QUIET

    other.__enter__()
    events = list(watching(data).follow(changes()))
    assert told(events) == [("busy", "fox"), ("busy", "fox"), ("updated", "fox")]
    assert "`lamina train`" in events[0].message


def test_a_skill_is_what_layers_record_of_the_file(data: Path, cli: Cli) -> None:
    write(data / "fox.jsonl", 6)
    assert cli("train", "data/fox.jsonl", "--as", "animals", "--rank", "2").code == 0
    write(data / "fox.jsonl", 8)
    assert told(watching(data).follow(())) == [("updated", "animals")]


def test_the_command_tells_every_event_as_a_line(data: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    write(data / "fox.jsonl", 6)
    quick = ("--rank", "2", "--epochs", "1")
    once = cli("watch", "data", "--once", *quick, "--json")
    assert (once.code, once.json["event"], once.json["name"], once.json["counts"]["new"]) == (0, "updated", "fox", 6)
    assert cli("watch", "data", "--once").err.splitlines()[-1] == "fox: up to date"
    (data / "owl.jsonl").write_text("{")
    broken = cli("watch", "data", "--once", "--json")
    assert (broken.code, [json.loads(line)["event"] for line in broken.out.splitlines()]) == (1, ["unchanged", "error"])

    def until_ctrl_c(paths: Any, **flags: Any) -> Iterator[tuple[Path, ...]]:
        assert flags == {"settle_s": 0.5, "polling": True}
        yield QUIET
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "file_changes", until_ctrl_c)
    stopped = cli("watch", "data", "--settle", "0.5", "--polling")
    assert (stopped.code, stopped.err.splitlines()[-1]) == (130, "stopped")


@pytest.mark.parametrize("polling", [False, True])
def test_changes_come_from_the_system(tmp_path: Path, polling: bool) -> None:
    """The real source: a change of a data file is seen, others are not, and quiet is told."""
    changes = file_changes([tmp_path], settle_s=0.1, polling=polling)
    assert next(changes) == set()
    (tmp_path / "note.log").write_text("x")
    write(tmp_path / "fox.jsonl", 2)
    seen = next(batch for batch in changes if batch)
    assert seen == {tmp_path / "fox.jsonl"}
    assert next(batch for batch in changes if not batch) == set()
    changes.close()


def test_where_the_system_gives_no_watch_it_polls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import watchfiles

    asked = []

    def watch(*roots: Path, force_polling: bool, **rest: Any) -> Iterator[set[tuple[int, str]]]:
        asked.append(force_polling)
        if not force_polling:
            raise OSError("OS file watch limit reached")
        yield {(1, str(tmp_path / "fox.jsonl"))}

    monkeypatch.setattr(watchfiles, "watch", watch)
    assert list(file_changes([tmp_path], settle_s=0.1)) == [{tmp_path / "fox.jsonl"}]
    assert asked == [False, True]


def test_a_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder that could be watched"):
        next(file_changes([tmp_path / "absent" / "*.jsonl"], settle_s=0.1))
