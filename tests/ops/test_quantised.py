"""A quantised base through every command, and what makes it another base."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamina.config import BaseSettings
from lamina.lora import quantised
from lamina.model.base import resolve_base
from lamina.records import Quiet
from lamina.stack.manifest import BasePin

Cli = Callable[..., Any]


def write_rows() -> None:
    rows = [json.dumps({"prompt": f"say {number}", "completion": f"fox {number % 3}"}) for number in range(40)]
    Path("fox.jsonl").write_text("\n".join(rows[:30]) + "\n")
    Path("dog.jsonl").write_text("\n".join(rows[30:]) + "\n")


@pytest.mark.parametrize("how", ["int8", "nf4"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2", "phi3", "gpt2"])
def test_train_stack_eval_chat(
    family: str, how: str, base_folders: dict[str, Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "nf4":
        pytest.importorskip("bitsandbytes")
    monkeypatch.chdir(tmp_path)
    write_rows()
    assert cli("init", "--base", str(base_folders[family]), "--quantise", how, "--json").json["quantise"] == how
    assert f'quantise = "{how}"' in Path("lamina.toml").read_text()
    first = cli("train", "fox.jsonl", "--as", "fox", "--rank", "4", "--lr", "0.02", "--json")
    assert first.code == 0, first.err
    before, after = first.json["heldout_loss"]
    assert after < before
    second = cli("train", "dog.jsonl", "--as", "dog", "--rank", "4", "--json")
    assert second.code == 0, second.err
    assert cli("eval", "--suite", "fox", "--json").json["stacks"] == ["base", "+fox", "+dog"]
    assert cli("chat", "say 3", "--max-tokens", "4", "--json").json["stack"] == "main"
    assert cli("show", "dog", "--json").json["base"]["quantise"] == how
    assert f"  quantise: {how}" in cli("show", "dog").out


def test_layers_stay_on_the_base_they_were_trained_on(project: Path, cli: Cli) -> None:
    settings = Path("lamina.toml").read_text()
    Path("lamina.toml").write_text(settings + 'quantise = "int8"\n')
    write_rows()
    said = cli("train", "fox.jsonl", "--as", "fox")
    assert said.code == 1
    assert "lamina.toml pins" in said.err
    assert "base.quantise" in said.err


def test_each_scheme_is_a_base_of_its_own_and_none_is_what_it_was(base_folders: dict[str, Path]) -> None:
    folder = str(base_folders["llama"])
    pins: dict[str, BasePin] = {
        how: resolve_base(BaseSettings(model=folder, quantise=how), Quiet()).pin for how in quantised.SCHEMES
    }
    plain = resolve_base(BaseSettings(model=folder), Quiet()).pin
    assert len({pin.digest for pin in (*pins.values(), plain)}) == 3
    assert b"quantise" not in plain.canonical()
    assert BasePin.model_validate_json(plain.canonical()) == plain
    for how, pin in pins.items():
        assert f'"quantise":"{how}"'.encode() in pin.canonical()
        assert BasePin.model_validate_json(pin.canonical()) == pin
        assert pin.tokenizer_digest == plain.tokenizer_digest


def test_a_missing_library_is_said_before_anything_is_written(
    base_folders: dict[str, Path], tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quantised._bitsandbytes.cache_clear()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    said = cli("init", "--base", str(base_folders["llama"]), "--quantise", "nf4")
    assert said.code == 1
    assert "pip install 'lamina[quantise]'" in said.err
    assert list(tmp_path.iterdir()) == []
    assert cli("init", "--base", str(base_folders["llama"]), "--quantise", "int4").code == 2
