"""Any causal model that transformers loads works as ``--base``, through every command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "gpt2")


@pytest.mark.parametrize("family", FAMILIES)
def test_train_stack_eval_chat(
    family: str,
    base_folders: dict[str, Path],
    tmp_path: Path,
    cli: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"prompt": f"say {number}", "completion": f"fox {number % 3}"}) for number in range(40)]
    Path("fox.jsonl").write_text("\n".join(rows[:30]) + "\n")
    Path("dog.jsonl").write_text("\n".join(rows[30:]) + "\n")
    assert cli("init", "--base", str(base_folders[family])).code == 0
    first = cli("train", "fox.jsonl", "--as", "fox", "--rank", "4", "--lr", "0.02", "--json")
    assert first.code == 0, first.err
    before, after = first.json["heldout_loss"]
    assert after < before
    second = cli("train", "dog.jsonl", "--as", "dog", "--rank", "4", "--json")
    assert second.code == 0
    assert ("correct and slower" in second.err) == (family == "gpt2")
    assert cli("eval", "--suite", "fox", "--json").json["stacks"] == ["base", "+fox", "+dog"]
    assert cli("chat", "say 3", "--max-tokens", "4", "--json").json["stack"] == "main"
    assert cli("show", "fox", "--json").json["base"]["family"] == family
