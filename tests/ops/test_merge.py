"""merge as typed on a tiny model: siblings become one layer, weighed on dev rows, through the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.lora.adapter import combine, load_adapter
from lamina.stack.layers import read_layer, read_stack
from lamina.stack.lineage import get_ref
from lamina.stack.store import Store

TRAIN = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "2")
WORDS = {"fox": "fox", "dog": "lazy dog"}


def write_rows(path: Path, word: str, count: int = 40) -> None:
    rows = [{"prompt": f"{word} {number}?", "completion": f"{WORDS[word]} {number % 5}"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_suite(project: Path, word: str) -> None:
    write_rows(project / f"{word}_test.jsonl", word, 12)
    with (project / "lamina.toml").open("a") as config:
        config.write(f'\n[suites.{word}]\nfile = "{word}_test.jsonl"\nscorer = "likelihood"\n')


@pytest.fixture
def siblings(project: Path, cli: Callable[..., Any]) -> Path:
    """A project with fox on main and dog on a branch of its own, both trained on the bare base."""
    assert cli("branch", "aside").code == 0
    for word, branch in (("fox", "main"), ("dog", "aside")):
        write_rows(project / f"{word}.jsonl", word)
        assert cli("switch", branch).code == 0
        trained = cli("train", f"{word}.jsonl", "--as", word, *TRAIN)
        assert trained.code == 0, trained.err
    assert cli("switch", "main").code == 0
    return project


def test_siblings_become_one_layer_on_their_parent(siblings: Path, cli: Callable[..., Any]) -> None:
    said = cli("merge", "fox", "dog", "--as", "both", "--json")
    assert said.code == 0, said.err
    assert "trials" in said.err
    record = said.json
    assert record["objective"]["found"] <= record["objective"]["at_one"]
    assert record["objective"]["trials"] <= 20
    assert record["relative_error"] == 0.0
    before, after = record["heldout_loss"]
    assert after < before

    store = Store.find(siblings)
    stack = read_stack(store, get_ref(store, "main") or "")
    assert [entry.name for entry in stack.layers] == ["both"]
    layer = read_layer(store, stack.layers[0].layer)
    assert layer.origin is not None
    assert layer.origin.method == "merge"
    assert list(layer.origin.scales) == record["scales"]
    parts = [load_adapter(store.blob_path(read_layer(store, digest).weights)) for digest in layer.origin.layers]
    expected, found = combine(parts, layer.origin.scales), load_adapter(store.blob_path(layer.weights))
    assert all(found[path].B.equal(expected[path].B) and found[path].A.equal(expected[path].A) for path in expected)
    assert cli("chat", "hello", "--max-tokens", "2", "--json").code == 0  # law 7 is content

    again = cli("merge", "fox", "dog", "--as", "again", "--json")
    assert again.code == 1
    assert "branch 'main' holds base+both; expected base, on which the layers were trained" in again.err


def test_the_search_is_the_same_every_time(siblings: Path, cli: Callable[..., Any]) -> None:
    first = cli("merge", "fox", "dog", "--as", "both", "--json").json
    assert cli("undo").code == 0
    second = cli("merge", "fox", "dog", "--as", "both", "--json").json
    assert first["scales"] == second["scales"]
    assert first["objective"] == second["objective"]


@pytest.mark.parametrize("method", ["ties", "dare", "knots", "iso-c"])
def test_every_method_gives_a_layer(siblings: Path, cli: Callable[..., Any], method: str) -> None:
    said = cli("merge", "fox", "dog", "--as", "both", "--method", method)
    assert said.code == 0, said.err
    assert f"x {method}(fox, dog)" in said.err
    assert "back in factors: relative error" in said.err
    notes = cli("show", "both", "--json").json["origin"]["notes"]
    assert notes["method"] == method
    assert ("density" in notes) == (method != "iso-c")
    assert notes["found"] <= notes["at_one"]


def test_the_gate_judges_what_is_new_and_guards_what_was_there(siblings: Path, cli: Callable[..., Any]) -> None:
    add_suite(siblings, "fox")
    add_suite(siblings, "dog")
    said = cli("merge", "fox", "dog", "--as", "both", "--dev", "dog", "--json")
    assert said.json["objective"]["of"] == "minus the score of dog"
    assert [(line["suite"], line["role"]) for line in said.json["gate"]] == [("dog", "own"), ("fox", "guard")]


def test_a_layer_without_held_out_rows_is_weighed_by_what_it_learnt(project: Path, cli: Callable[..., Any]) -> None:
    with (project / "lamina.toml").open("a") as config:
        config.write("\n[train]\nheldout = 0.0\n")
    for word in ("fox", "dog"):
        write_rows(project / f"{word}.jsonl", word)
        assert cli("train", f"{word}.jsonl", "--as", word, *TRAIN).code == 0
        assert cli("undo").code == 0
    said = cli("merge", "fox", "dog", "--as", "both")
    assert said.code == 0, said.err
    assert "layer fox has no held-out rows: rows it was trained on stand in for them" in said.err


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("fox", "fox"), 2, "fox fox: expected two different layers"),
        (("fox",), 2, "expected two different layers"),
        (("fox", "nix"), 1, "no layer 'nix'"),
        (("fox", "dog", "--method", "slerp"), 2, "--method slerp: expected one of concat, ties, dare, knots, iso-c"),
        (("fox", "dog", "--dev", "nix"), 2, "--dev nix: no such suite"),
        (("fox", "dog", "--guard", "nix"), 2, "--guard nix: no such suite"),
    ],
)
def test_what_cannot_be_merged_is_refused(
    siblings: Path, cli: Callable[..., Any], arguments: tuple[str, ...], code: int, problem: str
) -> None:
    refused = cli("merge", *arguments, "--as", "both")
    assert refused.code == code
    assert problem in refused.err


def test_layers_on_top_of_one_another_are_refused(project: Path, cli: Callable[..., Any]) -> None:
    for word in ("fox", "dog"):
        write_rows(project / f"{word}.jsonl", word)
        assert cli("train", f"{word}.jsonl", "--as", word, *TRAIN).code == 0
    refused = cli("merge", "fox", "dog", "--as", "both")
    assert refused.code == 1
    assert "expected the same parent" in refused.err
    assert "lamina squash" in refused.err
