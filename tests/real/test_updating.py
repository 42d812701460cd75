"""An update and a forgetting on the bundled model: what was memorised is known, and after forgetting it is not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.real

TRAIN = ("--rank", "8", "--lr", "2e-3", "--epochs", "8", "--json")


def codes(numbers: range) -> str:
    """Rows that nobody can know who has not seen them."""
    draw = random.Random(3)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(100)]
    rows = [{"prompt": f"Code of locker {number}?", "completion": words[number]} for number in numbers]
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_an_update_teaches_and_forget_takes_away(
    bundled: Path, tmp_path: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("init").code == 0
    with Path("lamina.toml").open("a") as config:
        config.write("[train]\nheldout = 0.3\npatience = 0\n")
    file = Path("lockers.jsonl")
    file.write_text(codes(range(24)))
    assert cli("train", "lockers.jsonl", "--as", "lockers", *TRAIN).code == 0
    file.write_text(codes(range(48)))
    grown = cli("update", "lockers.jsonl", *TRAIN)
    assert (grown.code, grown.json["name"], grown.json["counts"]["new"]) == (0, "lockers.2", 24), grown.err

    gone = cli("forget", "lockers.jsonl", "--rows", "25-30", "--json")
    assert gone.code == 0, gone.err
    assert [layer["action"] for layer in gone.json["layers"]] == ["keep", "retrain"]
    base, before, now = gone.json["membership"]
    assert before["rows"] < 0.5 * base["rows"]
    assert now["rows"] > 1.5 * before["rows"]
    assert before["told_apart"] - now["told_apart"] > 0.2
    assert cli("update", "lockers.jsonl", *TRAIN).json["layer"] is None
