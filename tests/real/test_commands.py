"""Whole commands on the bundled model, as a person types them: a layer learns, the stack proves it and answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.demo.files import data_path

pytestmark = pytest.mark.real

SUITES = """
[suites.tools]
file = "test.jsonl"
scorer = "call"
max_tokens = 32

[suites.general]
file = "general.jsonl"
scorer = "choice"
guard = true
margin = 0.4
"""


def head(name: str, count: int) -> str:
    return "".join(data_path(name).read_text("utf-8").splitlines(keepends=True)[:count])


def test_a_layer_learns_and_the_stack_proves_it(
    bundled: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    Path("train.jsonl").write_text(head("tools_train.jsonl", 200))
    Path("test.jsonl").write_text(head("tools_test.jsonl", 24))
    Path("general.jsonl").write_text(head("general.jsonl", 24))
    Path("lamina.toml").write_text(Path("lamina.toml").read_text() + SUITES)

    trained = cli("train", "train.jsonl", "--as", "tools", "--lr", "1e-3", "--json")
    assert trained.code == 0, trained.err

    matrix = cli("eval", "--json").json
    assert matrix["stacks"] == ["base", "+tools"]
    (base_tools, base_general), (layer_tools, layer_general) = matrix["scores"]
    assert base_tools == 0.0
    assert layer_tools >= 0.25
    assert layer_general >= base_general - 0.15

    question = json.loads(head("tools_test.jsonl", 1))["messages"]
    said = cli("chat", question[1]["content"], "--system", question[0]["content"], "--json").json
    assert said["answer"].startswith('{"name": "')
    plain = cli("chat", question[1]["content"], "--stack", "base", "--json").json
    assert not plain["answer"].startswith('{"name": "')

    assert cli("chart", "--json").code == 0
    assert (tmp_path / "charts" / "scores.png").stat().st_size > 10_000
