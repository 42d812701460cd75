"""What the page works with, without a browser: the shelf, uploads that stay inside, audits, lineage, results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamina.errors import DataError, StackError
from lamina.ops import workshop as module
from lamina.ops.project import open_project
from lamina.ops.workshop import ProjectWorkshop, safe_name
from lamina.records import Quiet
from lamina.serve.page.workshop import Said, Term, Turn


@pytest.fixture
def workshop(project: Path) -> ProjectWorkshop:
    return ProjectWorkshop(open_project(project, Quiet()))


def send(workshop: ProjectWorkshop, name: str, *pieces: bytes) -> str | None:
    offset, path = 0, None
    for place, piece in enumerate(pieces):
        path = workshop.receive(name, offset, piece, last=place == len(pieces) - 1)
        offset += len(piece)
    return path


def test_the_shelf(workshop: ProjectWorkshop, grow: Callable[..., Any], cli: Callable[..., Any]) -> None:
    grow("fox")
    grow("dog")
    assert cli("tag", "v1").code == 0
    assert cli("scale", "dog", "0.5").code == 0
    shelf = workshop.shelf()
    assert (shelf.branch, [layer.name for layer in shelf.layers]) == ("main", ["fox", "dog"])
    stacks = {stack.name: (stack.kind, stack.terms) for stack in shelf.stacks}
    assert stacks == {
        "main": ("branch", (Term("fox", 1.0), Term("dog", 0.5))),
        "v1": ("tag", (Term("fox", 1.0), Term("dog", 1.0))),
    }


def test_layers_that_share_a_name_go_by_digest(workshop: ProjectWorkshop, grow: Callable[..., Any]) -> None:
    grow("fox")
    grow("fox")
    shelf = workshop.shelf()
    assert [layer.term for layer in shelf.layers] == [layer.digest for layer in shelf.layers]
    opened = open_project(Path(), Quiet())
    (main,) = (stack for stack in shelf.stacks if stack.name == "main")
    summed = opened.stack("base+" + "+".join(term.layer for term in main.terms))
    assert summed == opened.stack("main")


@given(st.text())
def test_an_uploaded_name_never_leaves_its_folder(name: str) -> None:
    for text in (name, f"{name}.jsonl"):
        try:
            safe = safe_name(text)
        except DataError:
            continue
        assert (Path("data") / safe).parent == Path("data")
        assert safe.isascii()
        assert not safe.startswith(".")
        assert safe_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/chat.jsonl", "chat.jsonl"),
        ("C:\\Users\\ann\\my chats (2).CSV", "my-chats-2.CSV"),
        (".hidden.json", "hidden.json"),
        ("x" * 300 + ".txt", "x" * 100 + ".txt"),
    ],
)
def test_names_that_are_mended(name: str, safe: str) -> None:
    assert safe_name(name) == safe


@pytest.mark.parametrize("name", ["", "..", ".jsonl", "run.py", "lamina.toml", "a.jsonl/", "a.jsonl\0.sh"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="expected a name that ends in"):
        safe_name(name)


def test_a_file_arrives_in_pieces_and_whole(workshop: ProjectWorkshop, project: Path) -> None:
    assert workshop.receive("a.jsonl", 0, b'{"te', last=False) is None
    assert workshop.files() == []
    assert workshop.receive("a.jsonl", 4, b'xt": "x"}', last=True) == "data/a.jsonl"
    assert [(each.file, each.size_bytes) for each in workshop.files()] == [("data/a.jsonl", 13)]
    send(workshop, "a.jsonl", b'{"text": "y"}')  # another one of the name takes its place
    assert (project / "data" / "a.jsonl").read_bytes() == b'{"text": "y"}'
    assert [path.name for path in (project / "data").iterdir()] == ["a.jsonl"]


def test_pieces_that_do_not_fit_together(workshop: ProjectWorkshop) -> None:
    workshop.receive("a.jsonl", 0, b"abcd", last=False)
    with pytest.raises(DataError, match="a piece is missing: expected byte 4, got 8"):
        workshop.receive("a.jsonl", 8, b"x", last=True)


def test_a_file_that_is_too_large(workshop: ProjectWorkshop, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 6)
    workshop.receive("a.jsonl", 0, b"abcd", last=False)
    with pytest.raises(DataError, match="is larger than"):
        workshop.receive("a.jsonl", 4, b"abcd", last=True)
    assert list((project / "data").iterdir()) == []


@pytest.mark.parametrize("file", ["/etc/passwd", "../x.jsonl", "lamina.toml", ".lamina/index.json", "none.jsonl"])
def test_only_the_projects_data_files_are_touched(workshop: ProjectWorkshop, file: str) -> None:
    with pytest.raises(DataError, match="not among the project's data files"):
        workshop.audit(file)
    with pytest.raises(DataError, match="not among the project's data files"):
        workshop.start(file, "train", "x")


def test_an_audit(workshop: ProjectWorkshop, cli: Callable[..., Any], project: Path) -> None:
    rows = [{"prompt": f"{number}?", "completion": "b"} for number in range(30)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (project / "fox.jsonl").write_text(text)
    assert cli("train", "fox.jsonl", "--as", "animals", "--rank", "4", "--epochs", "1").code == 0
    grown = text + json.dumps({"prompt": "new?", "completion": "b"}) + "\n" + text.splitlines()[0] + "\n"
    path = send(workshop, "fox.jsonl", grown.encode()[:100], grown.encode()[100:])
    assert path == "data/fox.jsonl"
    audit = workshop.audit(path)
    assert (audit.rows, audit.known, audit.duplicates, audit.heldout) == (31, 30, 1, 0)
    assert (audit.how, audit.name) == ("update", "animals")
    assert audit.description == "fox.jsonl: 32 rows (JSONL, prompt/completion)"
    assert [piece.text for piece in audit.example if piece.trained] == ["b<|im_end|>"]
    assert 0 < audit.longest <= audit.context == 256
    other = send(workshop, "2 owls.txt", b"An owl sees at night.")
    assert other is not None
    assert (workshop.audit(other).how, workshop.audit(other).name) == ("train", "owls")


def test_feedback_names_the_stack_it_was_about(workshop: ProjectWorkshop, project: Path) -> None:
    asked, said = [Turn("user", "who?")], Said("base", "an owl")
    assert workshop.vote(asked, said, Said("main", "a fox"), "model_a")
    assert workshop.correct(asked, "a heron", said)
    record = json.loads((project / "corrections.jsonl").read_text())
    assert record["stack"].startswith("sha256:")
    assert [each.rows_of for each in workshop.files()] == ["corrections of answers", "votes between answers"]
    with pytest.raises(StackError, match="no ref or stack 'nobody'"):
        workshop.correct(asked, "a heron", Said("nobody", "an owl"))


def test_lineage_and_results(workshop: ProjectWorkshop, grow: Callable[..., Any], cli: Callable[..., Any]) -> None:
    grow("fox", seconds=3600.0)
    fox, base = workshop.lineage()
    assert (fox.graph, fox.label, fox.refs, fox.tokens, fox.loss) == ("●", "fox", ("main",), 1000, (2.0, 1.0))
    assert fox.money == "$0.01"
    assert (base.digest, base.graph[0]) == (None, "○")
    assert workshop.results().suites == ()
    assert workshop.charts() == []

    Path("facts.jsonl").write_text('{"prompt": "who?", "completion": "b"}\n' * 3)
    with Path("lamina.toml").open("a") as settings:
        settings.write('\n[suites.facts]\nfile = "facts.jsonl"\nscorer = "likelihood"\n')
    assert cli("eval").code == 0
    results = workshop.results()
    assert (results.stacks, results.suites) == (("base", "+fox"), ("facts",))
    assert all(cell is not None and 0 < cell.mean < 1 and cell.items == 3 for row in results.cells for cell in row)
    assert "scores" in [chart.name for chart in workshop.charts()]
    grow("dog")
    assert workshop.results().cells[2] == (None,)
    assert workshop.charts() == []  # no suite has every prefix any more
