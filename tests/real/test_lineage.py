"""On the bundled model: a layer comes out again bit for bit, is blamed for its answer, and moves to another base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.demo.files import data_path
from lamina.stack.lineage import get_ref
from lamina.stack.store import Store

pytestmark = pytest.mark.real


def test_reproduce_blame_and_rebase(
    bundled: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    lines = data_path("tools_train.jsonl").read_text("utf-8").splitlines(keepends=True)[:24]
    Path("tools.jsonl").write_text("".join(lines))
    trained = cli("train", "tools.jsonl", "--as", "tools", "--lr", "2e-3", "--epochs", "1", "--json")
    assert trained.code == 0, trained.err

    again = cli("reproduce", "tools", "--json")
    assert again.code == 0, again.err
    assert (again.json["outcome"], again.json["same_machine"]) == ("identical", True)

    system, question, answer = json.loads(lines[0])["messages"]
    asked = ("blame", question["content"], "--system", system["content"], "--answer", answer["content"], "--json")
    blamed = cli(*asked).json
    assert blamed["responsible"] == "tools"
    assert blamed["layers"][0]["change"] < -5
    assert blamed["base"]["change"] == pytest.approx(blamed["layers"][0]["change"])

    # The same model held in 8 bits is another base, near enough that nothing has to be trained.
    moved = cli("rebase", "--base", "smollm2-135m", "--quantise", "int8", "--json")
    assert moved.code == 0, moved.err
    (tools,) = moved.json["layers"]
    assert (tools["step"], tools["cost"]["trained_tokens"]) == ("carry", 0)
    assert tools["loss"][1] <= tools["most"]
    assert 'quantise = "int8"' in Path("lamina.toml").read_text()
    assert get_ref(Store.find(tmp_path), "main") == moved.json["stack"]
