"""``lamina forget`` on a tiny model: what must go is in no layer, sample or log of what is left, and stays out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.data.identity import row_identity
from lamina.data.read import read_rows
from lamina.errors import UsageError
from lamina.ops.ledger import read_ledger
from lamina.ops.membership import told_apart
from lamina.ops.project import open_project
from lamina.ops.replay import replay_rows
from lamina.ops.rows import known_rows, rehearsable_rows, stored_rows
from lamina.ops.traces import find_holders
from lamina.ops.wishes import parse_numbers
from lamina.records import Quiet
from lamina.stack.layers import list_layers, read_layer
from lamina.stack.store import Store

Cli = Callable[..., Any]
QUICK = ("--rank", "2", "--epochs", "2", "--lr", "0.02", "--json")


def write(path: Path, numbers: Any) -> Path:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in numbers]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def train(project: Path, cli: Cli, name: str, numbers: Any, *flags: str) -> str:
    write(project / f"{name}.jsonl", numbers)
    said = cli("train", f"{name}.jsonl", "--as", name, *QUICK, *flags)
    assert said.code == 0, said.err
    return str(said.json["layer"])


def rows_of(path: Path) -> dict[int, str]:
    return {row.row: row_identity(row) for row in read_rows(path).rows}


def actions(said: Any) -> dict[str, str]:
    return {layer["name"]: layer["action"] for layer in said.json["layers"]}


def assert_gone(project: Path, rows: set[str]) -> None:
    """No layer of the branch lists the rows or carries them along, and no replay gives them."""
    opened = open_project(project, Quiet())
    stack = opened.stack()
    assert not known_rows(opened, stack) & rows
    assert not {row_identity(row) for row in replay_rows(opened, stack, 1000)} & rows
    for entry in stack.layers:
        layer = read_layer(opened.store, entry.layer)
        carried = [*stored_rows(opened.store, layer.replay), *stored_rows(opened.store, layer.heldout)]
        assert not {row_identity(row) for row in carried} & rows
    assert not (project / ".lamina" / "cache").exists()
    assert not (project / ".lamina" / "runs").exists()


@pytest.fixture
def three(project: Path, cli: Cli) -> Path:
    """fox, then owl which rehearses fox, then elk which rehearses nothing."""
    train(project, cli, "fox", range(60))
    train(project, cli, "owl", range(100, 130), "--replay", "0.5")
    train(project, cli, "elk", range(200, 230), "--replay", "0")
    return project


def test_rows_go_out_of_every_layer_that_saw_or_rehearsed_them(three: Path, cli: Cli) -> None:
    rows = rows_of(three / "fox.jsonl")
    gone = {rows[3], *(rows[number] for number in range(17, 21))}
    before = {layer["name"]: layer["digest"] for layer in cli("log", "--json").json["layers"]}
    planned = cli("forget", "fox.jsonl", "--rows", "3,17-20", "--dry-run", "--json")
    assert actions(planned) == {"fox": "retrain", "owl": "retrain", "elk": "carry"}
    assert [layer["digest"] for layer in cli("log", "--json").json["layers"]] == list(before.values())

    done = cli("forget", "fox.jsonl", "--rows", "3,17-20", "--json")
    assert done.code == 0, done.err
    fox, owl, elk = done.json["layers"]
    assert (fox["seen"], owl["seen"], owl["rehearsed"]) == (5, 0, True)
    assert elk["action"] in ("carry", "retrain")
    after = {layer["name"]: layer["digest"] for layer in cli("log", "--json").json["layers"]}
    assert list(after) == ["fox", "owl", "elk"]
    assert after["fox"] != before["fox"]
    assert after["owl"] != before["owl"]
    assert_gone(three, gone)
    (move, *_) = cli("log", "--json").json["moves"]
    assert move["why"].startswith("forget 5 rows of fox.jsonl; fox, owl")
    assert [one["stack"] for one in done.json["membership"]] == ["base", "before", "now"]
    assert done.json["holders"]["pasts"] == ["main"]

    again = cli("update", "fox.jsonl", *QUICK)  # the file still holds them
    assert (again.json["layer"], again.json["counts"]["forgotten"]) == (None, 5)
    assert "5 rows left out, which `lamina forget` took away" in again.err
    assert cli("chat", "hello", "--max-tokens", "2", "--json").code == 0


def test_a_layer_goes_and_those_above_stay_what_they_were(project: Path, cli: Cli) -> None:
    fox, owl = (train(project, cli, *args, "--replay", "0") for args in (("fox", range(30)), ("owl", range(100, 130))))
    done = cli("forget", "fox", "--json")
    assert done.code == 0, done.err
    assert actions(done)["fox"] == "drop"
    assert_gone(project, set(rows_of(project / "fox.jsonl").values()))
    kept = cli("log", "--json").json["layers"]
    assert [layer["name"] for layer in kept] == ["owl"]
    if actions(done)["owl"] == "carry":
        assert kept[0]["digest"] == owl
    assert cli("undo").code == 0
    assert [layer["digest"] for layer in cli("log", "--json").json["layers"]] == [fox, owl]
    strict = cli("forget", "fox", "--strict", "--json")
    assert actions(strict) == {"fox": "drop", "owl": "retrain"}
    assert cli("log", "--json").json["layers"][0]["digest"] != owl


def test_purge_leaves_nothing_behind(three: Path, cli: Cli) -> None:
    gone = set(rows_of(three / "fox.jsonl").values())
    opened = open_project(three, Quiet())
    assert cli("tag", "v1").code == 0
    tagged = cli("forget", "fox", "--purge", "--json")
    assert (tagged.code, tagged.json["holders"]["tags"], tagged.json["holders"]["pasts"]) == (0, ["v1"], [])
    assert cli("tag", "--delete", "v1").code == 0
    left = cli("forget", "fox.jsonl", "--purge", "--json")  # nothing to do but to clear
    assert left.code == 0, left.err
    assert left.json["holders"] == {"branches": [], "tags": [], "pasts": [], "layers": []}
    assert find_holders(opened.store, gone).layers == ()
    assert [layer.name for _, layer in list_layers(opened.store)] == ["owl", "elk"]
    blobs = b"".join(path.read_bytes() for path in (three / ".lamina" / "blobs" / "sha256").iterdir())
    assert b"what is 7?" not in blobs
    assert cli("fsck", "--json").code == 0
    assert cli("undo").code == 1


def test_what_was_deleted_from_the_file_is_forgotten_by_its_hash(project: Path, cli: Cli) -> None:
    train(project, cli, "fox", range(30))
    rows = rows_of(project / "fox.jsonl")
    write(project / "fox.jsonl", range(28))
    done = cli("forget", "--removed", "fox.jsonl", "--json")
    assert (done.code, done.json["rows"], actions(done)) == (0, 2, {"fox": "retrain"}), done.err
    assert_gone(project, {rows[29], rows[30]})
    assert cli("update", "fox.jsonl", *QUICK).json["counts"]["removed"] == 0


def test_files_are_found_where_they_were_named_or_dropped(project: Path, cli: Cli) -> None:
    write(project / "withdrawn.jsonl", range(2, 3))
    for folder, target in (("far", ("far/fox.jsonl", "--rows", "3")), ("data", ("withdrawn.jsonl",))):
        (project / folder).mkdir()
        write(project / folder / "fox.jsonl", range(300))  # more rows than a layer carries along
        assert cli("train", f"{folder}/fox.jsonl", "--as", folder, *QUICK, "--replay", "0").code == 0
        done = cli("forget", *target, "--json")
        assert (done.code, actions(done)[folder]) == (0, "retrain"), done.err
        assert cli("drop", folder).code == 0
        (project / ".lamina" / "forgotten").unlink()
    steps = [entry for entry in read_ledger(Store.find(project)) if entry.step == "forget"]
    assert {entry.layer for entry in steps if entry.trained} == {"data", "far"}
    assert cli("log", "--cost", "--json").code == 0


def test_an_answer_that_was_edited_away_is_removed_too(project: Path, cli: Cli) -> None:
    train(project, cli, "fox", range(30))
    old = rows_of(project / "fox.jsonl")[3]
    text = (project / "fox.jsonl").read_text()
    (project / "fox.jsonl").write_text(text.replace("fox 2", "somebody", 1))
    done = cli("forget", "--removed", "fox.jsonl", "--json")
    assert (done.code, done.json["rows"], actions(done)) == (0, 1, {"fox": "retrain"}), done.err
    assert_gone(project, {old})
    again = cli("forget", "--removed", "fox.jsonl")
    assert (again.code, "nothing to forget" in again.err, "no layer" in again.err) == (0, True, False)


def test_forgotten_rows_come_back_from_no_sample(project: Path, cli: Cli) -> None:
    train(project, cli, "fox", range(30))
    gone = rows_of(project / "fox.jsonl")[3]
    assert cli("branch", "dev").code == 0
    assert cli("forget", "fox.jsonl", "--rows", "3").code == 0
    assert cli("switch", "dev").code == 0  # whose layer was trained on it, and carries it along
    opened = open_project(project, Quiet())
    stack = opened.stack()
    assert gone in known_rows(opened, stack)
    assert gone not in {row_identity(row) for row in replay_rows(opened, stack, 1000)}
    sample = read_layer(opened.store, stack.layers[0].layer).replay
    assert gone in {row_identity(row) for row in stored_rows(opened.store, sample)}
    assert gone not in {row_identity(row) for row in rehearsable_rows(opened.store, sample)}


def test_a_layer_of_which_nothing_is_left_is_dropped(project: Path, cli: Cli) -> None:
    train(project, cli, "fox", range(10))
    train(project, cli, "owl", range(100, 110), "--replay", "0")
    done = cli("forget", "fox.jsonl", "--json")
    assert actions(done)["fox"] == "drop"
    assert [layer["name"] for layer in cli("log", "--json").json["layers"]] == ["owl"]


def test_grown_and_changed_files_still_serve_and_missing_ones_are_named(project: Path, cli: Cli) -> None:
    train(project, cli, "fox", range(300))
    write(project / "fox.jsonl", range(320))
    assert cli("update", "fox.jsonl", *QUICK).code == 0
    done = cli("forget", "fox.jsonl", "--rows", "310", "--json")
    assert (done.code, actions(done)) == (0, {"fox": "keep", "fox.2": "retrain"}), done.err
    whole = (project / "fox.jsonl").read_bytes()
    write(project / "fox.jsonl", range(20))
    before = cli("log", "--json").json
    missing = cli("forget", "fox.jsonl", "--rows", "1")
    assert missing.code == 1
    assert "layer 'fox': " in missing.err
    assert "rows that it must keep are not here any more (it was trained on fox.jsonl)" in missing.err
    assert cli("log", "--json").json == before
    (project / "elsewhere.jsonl").write_bytes(whole)
    assert cli("forget", "fox.jsonl", "--rows", "1", "--data", "elsewhere.jsonl", "--json").code == 0


def test_interrupted_it_goes_on_and_the_branch_is_never_in_between(
    three: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lamina.ops import forget as module

    make, calls = module.make_layer, []

    def stop_at_the_second(*args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return make(*args, **kwargs)

    before = cli("log", "--json").json
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_layer", stop_at_the_second)
        assert cli("forget", "fox.jsonl", "--rows", "2").code == 130
    assert cli("log", "--json").json == before
    again = cli("forget", "fox.jsonl", "--rows", "2", "--json")
    assert again.code == 0
    assert "Layer fox" in again.err
    assert "was trained like this before" in again.err
    assert_gone(three, {rows_of(three / "fox.jsonl")[2]})


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("fix",), 1, "'fix' is neither a file nor a layer of 'main'"),
        (("fox.jsonl", "--rows", "0-3"), 2, "--rows 0-3: '0-3' is no row or range of rows"),
        (("fox.jsonl", "--rows", "99"), 1, "fox.jsonl: has no row 99"),
        (("fox.jsonl", "--rows", "1", "--removed"), 2, "--rows names rows of a file, --removed those that it lacks"),
        (("fox.jsonl", "fox.jsonl", "--rows", "1"), 2, "--rows belongs to one file, 2 are named"),
        (("fox.jsonl", "absent.jsonl"), 1, "absent.jsonl: cannot be read: no such file"),
        (("fox", "--suite", "nope"), 2, "--suite nope: no such suite"),
    ],
)
def test_bad_input(project: Path, cli: Cli, arguments: tuple[str, ...], code: int, said: str) -> None:
    train(project, cli, "fox", range(10))
    answer = cli("forget", *arguments)
    assert (answer.code, said in answer.err) == (code, True), answer.err
    assert not (project / ".lamina" / "forgotten").exists()


def test_rows_that_no_layer_has_seen_change_nothing_but_are_kept_out(project: Path, cli: Cli) -> None:
    train(project, cli, "fox", range(10))
    write(project / "other.jsonl", range(50, 53))
    done = cli("forget", "other.jsonl")
    assert done.code == 0
    assert "no layer of this branch has seen them; none will be trained on them" in done.err
    with (project / "fox.jsonl").open("a") as file:
        file.write((project / "other.jsonl").read_text())
    assert cli("update", "fox.jsonl", *QUICK).json["layer"] is None


def test_row_numbers() -> None:
    assert parse_numbers("3, 17-20") == {3, 17, 18, 19, 20}
    for wrong in ("", "x", "3-1", "1,,2", "-4"):
        with pytest.raises(UsageError):
            parse_numbers(wrong)


def test_told_apart_is_the_share_of_pairs() -> None:
    assert told_apart([1.0, 2.0], [3.0]) == 1.0
    assert told_apart([1.0, 3.0], [2.0]) == 0.5
    assert told_apart([2.0], [2.0]) == 0.5
    assert told_apart([3.0], [1.0, 3.0]) == 0.25
