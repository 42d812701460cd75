"""Files, folders and patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.data.find import find_files, root_of
from lamina.errors import DataError


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("b.jsonl", "a.CSV", "notes.doc", ".hidden.jsonl", "test.jsonl", "deep/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (".", ["a.CSV", "b.jsonl"]),
        ("*.jsonl", ["b.jsonl"]),
        ("**/*", ["a.CSV", "b.jsonl", "deep/c.txt"]),
        ("notes.doc", ["notes.doc"]),
        ("absent.jsonl", ["absent.jsonl"]),
        ("test.jsonl", ["test.jsonl"]),
    ],
)
def test_what_a_name_means(tree: Path, name: str, found: list[str]) -> None:
    paths = find_files([Path(name)], without=[tree / "test.jsonl"])
    assert [str(path) for path in paths] == found
    assert find_files([Path(name), Path(name)], without=[tree / "test.jsonl"]) == paths


def test_nothing_found_is_said(tree: Path) -> None:
    with pytest.raises(DataError, match=r"\*\.tsv: no data files there"):
        find_files([Path("*.tsv")])
    assert find_files([Path("*.tsv")], may_be_none=True) == []


def test_what_must_be_watched_to_see_it(tree: Path) -> None:
    roots = [str(root_of(Path(name))) for name in ("deep", "deep/*.txt", "deep/c.txt", "absent.jsonl", "**/*.txt")]
    assert roots == ["deep", "deep", "deep", ".", "."]
