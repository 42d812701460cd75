"""``lamina export`` writes what other programs load, checked, or nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from lamina.export import gguf as writing
from lamina.export.ollama import chatml_system
from lamina.records import Message
from lamina.stack.manifest import StackConfig

Grow = Callable[..., StackConfig]
IDS = torch.tensor([[5, 9, 33, 121, 7, 88, 64, 2]])


def test_gguf(project: Path, cli: Callable[..., Any], grow: Grow) -> None:
    grow("one")
    grow("two")
    said = cli("export", "--to", "gguf", "--out", "out", "--json")
    assert said.code == 0, said.err
    assert set(said.json["files"]) == {"README.md", "base.gguf", "stack.gguf"}
    agreement = said.json["agreement"]
    assert agreement["mean_error"] < 0.1 < agreement["without"]
    readme = (project / "out" / "README.md").read_text("utf-8")
    assert "llama-server -m base.gguf --lora stack.gguf" in readme
    assert "- one, scale 1," in readme
    assert [path.name for path in project.iterdir() if path.name.startswith(".publish")] == []


def test_ollama(project: Path, cli: Callable[..., Any], grow: Grow) -> None:
    grow("one")
    said = cli("export", "--to", "ollama", "--out", "out")
    assert said.code == 0, said.err
    assert "checked: log-probabilities" in said.err
    text = (project / "out" / "Modelfile").read_text("utf-8")
    assert text.startswith("FROM ./base.gguf\nADAPTER ./stack.gguf\n")
    assert "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}" in text


def test_vllm_pads_with_nothing_but_zeros(
    project: Path, cli: Callable[..., Any], grow: Grow, stack_logits: Callable[[Path], torch.Tensor], base_folders: Any
) -> None:
    for name in ("one", "two", "three"):
        grow(name)  # of rank 4 each: 12 together
    said = cli("export", "--to", "vllm", "--out", "out", "--json")
    assert said.code == 0, said.err
    config = json.loads((project / "out" / "adapter_config.json").read_text("utf-8"))
    assert (config["r"], config["lora_alpha"], config["rank_pattern"]) == (16, 16, {})
    assert "--max-lora-rank 16" in (project / "out" / "README.md").read_text("utf-8")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folders["llama"]), str(project / "out"))
    with torch.no_grad():
        found = model(input_ids=IDS).logits
    torch.testing.assert_close(found, stack_logits(project), atol=1e-4, rtol=1e-4)


def test_peft_and_safetensors(project: Path, cli: Callable[..., Any], grow: Grow) -> None:
    grow("one")
    assert cli("export", "--to", "peft", "--out", "peft").code == 0
    assert (project / "peft" / "adapter_model.safetensors").exists()
    assert cli("export", "--to", "safetensors", "--out", "folded").code == 0
    assert (project / "folded" / "config.json").exists()


def test_a_file_that_computes_something_else_is_not_written(
    project: Path, cli: Callable[..., Any], grow: Grow, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow("one")
    right = writing.widen
    monkeypatch.setattr(writing, "widen", lambda adapter, rank: right({k: adapter[k] for k in [*adapter][:1]}, rank))
    said = cli("export", "--to", "gguf", "--out", "out")
    assert said.code == 1
    assert "does not compute what the stack does" in said.err
    assert not (project / "out").exists()


def test_wrong_use(project: Path, cli: Callable[..., Any], grow: Grow) -> None:
    assert "no layers to export" in cli("export", "--to", "gguf", "--out", "out").err
    grow("one")
    (project / "there").mkdir()
    assert cli("export", "--to", "gguf", "--out", "there").code == 2
    said = cli("export", "--to", "peft", "--out", "out", "--weights", "q4_0")
    assert (said.code, "--weights q4_0 is of GGUF files" in said.err) == (2, True)
    assert cli("export", "--to", "onnx", "--out", "out").code == 2
    assert not (project / "out").exists()


def test_what_is_chatml_is_told_by_what_it_renders() -> None:
    default = "<|im_start|>system\nYou help.<|im_end|>\n"
    assert chatml_system(_rendering(default)) == default
    assert chatml_system(_rendering("")) == ""
    assert chatml_system(_rendering("", end="</s>")) is None


def _rendering(system: str, end: str = "<|im_end|>\n") -> Callable[[Sequence[Message]], str]:
    def render(messages: Sequence[Message]) -> str:
        front = "" if messages[0].role == "system" else system
        turns = "".join(f"<|im_start|>{turn.role}\n{turn.content}{end}" for turn in messages)
        return f"{front}{turns}<|im_start|>assistant\n"

    return render
