"""The verbs that change a branch without a model: what is typed, what is said, what is in the store afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.stack.store import Store

Cli = Callable[..., Any]


@pytest.fixture
def tower(project: Path, grow) -> Path:
    for name in ("tools", "facts", "chat"):
        grow(name)
    return project


def layers(cli: Cli, *stack: str) -> list[str]:
    return [layer["name"] for layer in cli("log", *stack, "--json").json["layers"]]


def test_drop_says_what_lies_elsewhere_now(tower: Path, cli: Cli) -> None:
    said = cli("drop", "tools")
    assert (said.code, said.out) == (0, "")
    assert "main: base+tools+facts+chat -> base+facts+chat" in said.err
    assert "facts, chat now lie on another stack than in training" in said.err
    log = cli("log", "--json").json
    assert [(layer["name"], layer["moved"]) for layer in log["layers"]] == [("facts", True), ("chat", True)]
    told = " ".join(cli("log").out.split())
    assert told.count("moved: without tools") == 2
    assert log["moves"][0]["why"] == "drop tools"


def test_dropping_the_top_gives_back_the_identical_stack(tower: Path, cli: Cli, grow) -> None:
    before = cli("log", "--json").json["refs"]["main"]
    grow("late")
    dropped = cli("drop", "late", "--json").json
    assert (dropped["new"], dropped["moved"]) == (before, [])


def test_reorder_scale_and_undo(tower: Path, cli: Cli) -> None:
    start = cli("log", "--json").json["refs"]["main"]
    assert cli("reorder", "chat", "tools", "facts").code == 0
    assert layers(cli) == ["chat", "tools", "facts"]
    assert cli("scale", "tools", "0.5").code == 0
    assert "tools:0.5" in cli("log").out
    assert cli("undo").code == 0
    assert cli("log", "--json").json["moves"][0]["why"] == "undo scale tools 0.5"
    assert cli("undo", "--json").json["new"] == start
    again = cli("scale", "tools", "1")
    assert (again.code, "is like that already" in again.err) == (1, True)
    for _ in range(3):
        assert cli("undo").code == 0
    nothing = cli("undo")
    assert (nothing.code, "branch 'main' has nothing to undo" in nothing.err) == (1, True)
    assert layers(cli) == []
    assert layers(cli, start) == ["tools", "facts", "chat"]  # nothing is lost


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("drop", "tolls"), "no layer 'tolls' in this stack"),
        (("reorder", "tools"), "'tools' is not an order of the 3 layers"),
        (("scale", "tools", "nan"), "scale nan of layer tools is not a finite number"),
        (("scale", "tools", "much"), "Invalid value for 'factor'"),
        (("switch", "mian"), "no ref 'mian'"),
        (("branch", "main"), "there is a branch 'main' already"),
        (("branch", "base"), "'base' always means the bare base"),
        (("branch", "--delete", "main"), "'main' is the current branch"),
        (("tag", "--delete", "main"), "'main' is a branch"),
        (("tag", "--delete"), "--delete needs a name"),
        (("branch", "new", "mian"), "no ref or stack 'mian'"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_moves(
    tower: Path, cli: Cli, line: tuple[str, ...], message: str
) -> None:
    before = (tower / ".lamina" / "index.json").read_bytes()
    said = cli(*line)
    assert said.code in (1, 2)
    assert message in said.err
    assert (tower / ".lamina" / "index.json").read_bytes() == before


def test_branches_part_and_tags_stay(tower: Path, cli: Cli, grow) -> None:
    assert cli("tag", "v1").code == 0
    assert cli("switch", "--create", "try").code == 0
    grow("jokes")
    assert cli("drop", "chat").code == 0
    assert layers(cli) == ["tools", "facts", "jokes"]
    assert layers(cli, "main") == layers(cli, "v1") == ["tools", "facts", "chat"]
    listed = cli("branch").out.splitlines()
    assert [line.split()[:1] for line in listed] == [["main"], ["*"]]
    assert cli("tag", "--json").json.keys() == {"v1"}
    refused = cli("branch", "--force", "v1", "main")
    assert (refused.code, "tags do not move" in refused.err) == (1, True)
    assert cli("switch", "main").code == 0
    deleted = cli("branch", "--delete", "try")
    assert "deleted branch try" in deleted.err
    bring_back = deleted.err.split("`")[1].split()
    assert cli(*bring_back[1:]).code == 0
    assert layers(cli, "try") == ["tools", "facts", "jokes"]


def test_the_tree_draws_shared_layers_once(tower: Path, cli: Cli, grow) -> None:
    cli("switch", "--create", "try")
    cli("drop", "chat")
    grow("jokes")
    cli("switch", "main")
    out = cli("log", "--all").out
    drawn = [line.split("  ")[0].rstrip() for line in out.splitlines()[1:]]
    assert drawn == ["● chat (main)", "│ ● jokes (try)", "├─╯", "● facts", "● tools", drawn[-1]]
    assert drawn[-1].startswith("○ ")
    assert max(len(line) for line in out.splitlines()) <= 80
    names = [layer["name"] for layer in cli("log", "--all", "--json").json["layers"]]
    assert sorted(names) == ["chat", "facts", "jokes", "tools"]


def test_cost_is_an_estimate_from_the_settings(tower: Path, cli: Cli) -> None:
    with (tower / "lamina.toml").open("a") as config:
        config.write('[cost]\nwatts = 120.0\nprice_kwh = 0.5\nprice_hour = 3.0\ncurrency = "€"\n')
    (first, *_) = cli("log", "--json").json["layers"]
    assert first["cost"]["watt_hours_estimate"] == pytest.approx(2.0)  # 120 W for 60 s
    assert first["cost"]["money_estimate"] == pytest.approx(0.05 + 0.001)
    out = cli("log").out
    assert "€0.15" in out.splitlines()[-1]  # three layers
    assert "3,000" in out.splitlines()[-1]


def test_show_takes_a_layer_or_a_stack(tower: Path, cli: Cli) -> None:
    assert cli("show", "facts", "--json").json["name"] == "facts"
    assert [entry["name"] for entry in cli("show", "main~1", "--json").json["layers"]] == ["tools", "facts"]
    assert "chat: sha256:" in cli("show", "main").out
    missing = cli("show", "fcats")
    assert (missing.code, "did you mean 'facts'" in missing.err) == (1, True)


@pytest.mark.parametrize("name", ["tools+facts", "tools:0.5", "main~1+tools"])
def test_what_is_not_one_layer_is_not_taken_for_its_last(tower: Path, cli: Cli, name: str) -> None:
    for line in (("reproduce", name), ("merge", name, "chat", "--as", "x")):
        said = cli(*line)
        assert said.code == 2
        assert f"'{name}' is not one layer" in said.err


def test_fsck_and_gc(tower: Path, cli: Cli) -> None:
    assert cli("fsck", "--json").json == {"findings": []}
    assert "nothing to remove" in cli("gc").err
    weights = Store(tower / ".lamina").blob_path(cli("show", "chat", "--json").json["weights"])
    weights.write_bytes(weights.read_bytes()[:-4])
    broken = cli("fsck")
    assert broken.code == 1
    assert "mended  main: its stack" in broken.out
    assert f"BROKEN  sha256:{weights.name}" in broken.out
    assert layers(cli) == ["tools", "facts"]
    unloadable = cli("log", "main~1")
    assert unloadable.code == 0  # what it was is still known
