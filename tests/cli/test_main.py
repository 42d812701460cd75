"""What people meet first: help, version, mistakes, and errors without a traceback."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.cli.main import VERBS
from lamina.model import machine

ROW = json.dumps({"prompt": "a", "completion": "b"})


def test_help_names_every_verb_within_80_columns(cli: Callable[..., Any]) -> None:
    said = cli("--help")
    assert said.code == 0
    assert all(f"  {name} " in said.out for name, _ in VERBS)
    assert max(map(len, said.out.splitlines())) <= 80


@pytest.mark.parametrize("verb", [name for name, _ in VERBS])
def test_every_verb_has_help_and_json(verb: str, cli: Callable[..., Any]) -> None:
    said = cli(verb, "--help")
    assert said.code == 0
    assert "--json" in said.out


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        *([name, "--help"] for name, _ in VERBS),
        ["log"],
        ["show", "x"],
        ["drop", "x"],
        ["reorder", "x"],
        ["scale", "x", "2"],
        ["tag"],
        ["switch", "x"],
        ["undo"],
        ["branch"],
        ["gc"],
        ["fsck"],
    ],
)
def test_help_and_log_never_import_torch(line: list[str], tmp_path: Path) -> None:
    code = (
        "import sys\nfrom lamina.cli.main import run_command\nrun_command(sys.argv[1:])\n"
        "sys.exit(9 if {'torch', 'transformers', 'matplotlib'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, *line], check=False, capture_output=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_mistyped_commands_and_flags_are_usage(cli: Callable[..., Any], project: Path) -> None:
    near = cli("trian")
    assert (near.code, "hint: lamina train" in near.err) == (2, True)
    assert cli().code == 2
    assert cli("train").code == 2
    assert cli("train", "a.jsonl", "--as", "x", "--rnk", "3").code == 2
    assert cli("train", "a.jsonl", "--as", "base").code == 2
    assert cli("data", "shwo", "a.jsonl").code == 2


def test_outside_a_project(cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in (["log"], ["eval"], ["chat", "hi"], ["train", "a.jsonl", "--as", "a"]):
        said = cli(*line)
        assert said.code == 1
        assert "lamina init" in said.err


def files_in(project: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in project.rglob("*") if path.is_file() and path.name != "lock"}


LONG = json.dumps({"prompt": "x" * 900, "completion": "b"})
CUT = json.dumps({"prompt": "x", "completion": "b" * 900})
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "rows.jsonl: is empty; expected at least one row"),
    "broken JSON": (f"{ROW}\n{ROW}\n{{".encode(), "rows.jsonl, row 3: broken JSON"),
    "mixed": (f'{ROW}\n{{"text": "a"}}\n'.encode(), "rows.jsonl, row 2: is plain text, the rows before it are"),
    "missing keys": (b'{"promt": "a"}\n', "rows.jsonl, row 1: its keys are 'promt'; expected"),
    "not UTF-8": (b'{"prompt": "\xff"}\n', "rows.jsonl, row 1: byte 12 is not UTF-8"),
    "only system": (
        b'{"messages": [{"role": "system", "content": "x"}]}\n',
        "rows.jsonl, row 1: nothing to learn: only system messages",
    ),
    "100 MB": (
        f"{ROW}\n".encode() + b'{"text": "' + b"a" * 100_000_000 + b'"}\n',
        "rows.jsonl, row 2: the row is longer",
    ),
    "question too long": (f"{ROW}\n{LONG}\n".encode(), "rows.jsonl, row 2: the answer lies beyond the context"),
    "answer too long": (f"{ROW}\n{CUT}\n".encode(), "rows.jsonl, row 2: 1 rows are longer than 256 tokens"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(case: str, project: Path, cli: Callable[..., Any]) -> None:
    content, message = BAD[case]
    (project / "rows.jsonl").write_bytes(content)
    before = files_in(project)
    said = cli("train", "rows.jsonl", "--as", "x", "--json")
    assert said.code == 1
    errors = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "hint: " in said.err
    assert "Traceback" not in said.err
    assert said.json["error"] == errors[0].removeprefix("error: ")
    assert files_in(project) == before


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("no/such/folder/here", "no such folder or .gguf file"),
        ("smolm2", "no such folder or .gguf file"),
        (".", "no config.json with .safetensors weights"),
    ],
)
def test_an_unknown_base_leaves_nothing(
    base: str, message: str, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = cli("init", "--base", base)
    assert said.code == 1
    assert message in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_is_no_causal_model_is_refused(
    base_folders: dict[str, Path], tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "odd"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"nonsense")
    (base / "config.json").write_text('{"model_type": "never-heard-of"}')
    said = cli("init", "--base", str(base))
    assert said.code == 1
    assert "Traceback" not in said.err
    assert "bug" not in said.err
    assert not (tmp_path / ".lamina").exists()


def test_too_little_disk_is_told_before_training(
    project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "rows.jsonl").write_text(f"{ROW}\n" * 3)

    class Full:
        f_bavail, f_frsize = 10, 512

    monkeypatch.setattr(machine.os, "statvfs", lambda path: Full)
    said = cli("train", "rows.jsonl", "--as", "x")
    assert said.code == 1
    assert "not enough disk for checkpoint and layer: needs" in said.err
    monkeypatch.undo()
    monkeypatch.chdir(project)
    assert cli("log", "--json").json["layers"] == []


def test_a_disk_that_fills_while_training_keeps_the_ref(project: Path, cli: Callable[..., Any]) -> None:
    import resource

    (project / "rows.jsonl").write_text(f"{ROW}\n" * 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        said = cli("train", "rows.jsonl", "--as", "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert said.code == 1
    assert "cannot be written" in said.err
    assert not list((project / ".lamina").rglob(".weights*"))
    assert cli("log", "--json").json["layers"] == []
    assert cli("train", "rows.jsonl", "--as", "x").code == 0


def test_a_bug_of_ours_is_told_as_one(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr(importlib.import_module("lamina.ops.lineage"), "read_lineage", broken)
    said = cli("log")
    assert said.code == 1
    assert "bug in lamina" in said.err
    assert "Traceback" not in said.err


def test_ctrl_c_in_a_command_is_130(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("lamina.ops.lineage"), "read_lineage", stopped)
    said = cli("log")
    assert said.code == 130
    assert "stopped" in said.err


def test_data_show_marks_what_is_trained(project: Path, cli: Callable[..., Any]) -> None:
    (project / "rows.jsonl").write_text(f"{ROW}\n")
    shown = cli("data", "show", "rows.jsonl", "--json").json
    assert [part["text"] for part in shown["parts"] if part["trained"]] == ["b<|im_end|>"]
    assert "[b<|im_end|>]" in cli("data", "show", "rows.jsonl").out
    beyond = cli("data", "show", "rows.jsonl", "--row", "2")
    assert beyond.code == 1


def test_chat_from_a_pipe(project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/stack nope\n/stack base\nhello again\n/quit\n"))
    said = cli("chat", "--max-tokens", "3", "--json")
    assert said.code == 0
    assert [json.loads(line)["stack"] for line in said.out.splitlines()] == ["main", "base"]
    assert "no ref or stack 'nope'" in said.err


def test_doctor_measures(cli: Callable[..., Any]) -> None:
    report = cli("doctor", "--json").json
    assert report["gflops_float32"] > 0
    assert report["disk_free_gb"] >= 0
