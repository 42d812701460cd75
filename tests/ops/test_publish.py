"""A stack as a hub repository: what is in the folder, what the card claims, and how an upload ends."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard

from lamina.errors import StackError, UsageError
from lamina.ops.project import open_project
from lamina.ops.publish import publish
from lamina.records import Quiet
from lamina.refs import Digest
from lamina.stack.layers import read_layer
from lamina.stack.manifest import LayerConfig, StackConfig

TARGET = "hf:someone/fox-and-more"
FILES = {"README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "lamina.json"}


def write_rows(path: Path, count: int) -> None:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def stacked(project: Path, cli: Any, foreign: Callable[..., Path]) -> Path:
    """A trained layer with a licence, an imported one on it at a scale, and a suite."""
    settings = (project / "lamina.toml").read_text()
    write_rows(project / "fox|1.jsonl", 40)
    write_rows(project / "asked.jsonl", 6)
    suite = '\n[suites.asked]\nfile = "asked.jsonl"\nmax_tokens = 3\nguard = true\n'
    (project / "lamina.toml").write_text(f'licence = "apache-2.0"\n{settings}{suite}')
    trained = cli("train", "fox|1.jsonl", "--as", "fox", "--rank", "3", "--lr", "0.02", "--accept")
    assert trained.code == 0, trained.err
    assert cli("import", str(foreign()), "--as", "skill", "--licence", "mit", "--accept").code == 0
    assert cli("scale", "skill", "0.5").code == 0
    return project


def test_peft_loads_the_folder_and_answers_as_the_stack(
    stacked: Path, tmp_path: Path, stack_logits: Any, peft_logits: Any
) -> None:
    folder = tmp_path / "out"
    published = publish(stacked, None, TARGET, folder=folder, progress=Quiet())
    assert {path.name for path in folder.iterdir()} == FILES == set(published.files)
    assert published.where == str(folder)
    ours = stack_logits(stacked)
    before, theirs = peft_logits(folder)
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-2
    assert (folder / "chat_template.jinja").read_text() == open_project(stacked, Quiet()).base.template


def test_the_records_have_the_digests_that_name_them(stacked: Path, tmp_path: Path) -> None:
    publish(stacked, None, TARGET, folder=tmp_path / "out", progress=Quiet())
    record = json.loads((tmp_path / "out" / "lamina.json").read_text())
    stack = StackConfig.model_validate_json(json.dumps(record["config"]))
    assert str(Digest.of_bytes(stack.canonical())) == record["stack"]
    assert [entry.layer for entry in stack.layers] == list(record["layers"])
    for digest, config in record["layers"].items():
        layer = LayerConfig.model_validate_json(json.dumps(config))
        assert str(Digest.of_bytes(layer.canonical())) == digest


def test_every_claim_on_the_card_is_in_the_records(stacked: Path, cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    matrix = cli("eval", "--suite", "asked", "--json").json
    publish(stacked, None, TARGET, folder=folder, progress=Quiet())
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "lamina"],
    }  # no base on the hub, and no one licence for both layers
    text = card.text
    project = open_project(stacked, Quiet())
    stack, pin = project.stack(), project.base.pin
    fox, skill = (read_layer(project.store, entry.layer) for entry in stack.layers)
    for claim in (pin.digest, pin.template_digest, pin.tokenizer_digest, *(entry.layer for entry in stack.layers)):
        assert f"`{claim}`" in text
    assert "| apache-2.0 |" in text
    assert "| mit |" in text
    assert f"| skill | `{stack.layers[1].layer}` | 0.5 | 4 | imported from PEFT {skill.created[:10]} | mit |" in text
    assert f"- fox: fox\\|1.jsonl, 40 rows, `{fox.data[0].digest}`" in text
    assert "- skill: not stated" in text
    cost = fox.cost
    assert (
        f"| fox | {cost.steps:,} | {cost.tokens:,} | {cost.trained_tokens:,} | {cost.seconds:,.1f} | "
        f"{fox.heldout_loss_before:.3f} → {fox.heldout_loss_after:.3f} |"
    ) in text
    assert "| skill | not recorded |" in text
    assert "learning\\_rate 0.02" in text
    assert "- skill: not recorded" in text
    (low, high), mean = matrix["intervals"][2][0], matrix["scores"][2][0]
    line = next(line for line in text.splitlines() if line.startswith("| asked"))
    assert line.startswith("| asked (guard) | exact | 6 | ")
    assert line.endswith(f"| {mean * 100:.1f} % ({low * 100:.1f} % to {high * 100:.1f} %) |")
    assert f"skill lies on another stack than the one it was trained on (`{skill.parent}`)" in text
    assert "where it is largest: 7." in text
    assert "by its content digest alone" in text
    assert "No one licence" in text


def test_the_card_says_what_was_not_measured(stacked: Path, tmp_path: Path) -> None:
    (stacked / "lamina.toml").write_text(
        (stacked / "lamina.toml").read_text() + '[suites.new]\nfile = "asked.jsonl"\nmax_tokens = 5\n'
    )
    publish(stacked, None, TARGET, folder=tmp_path / "out", progress=Quiet())
    text = (tmp_path / "out" / "README.md").read_text()
    assert re.search(r"^\| new \| exact \| 6 \| not measured \| not measured \|$", text, re.MULTILINE)
    assert re.search(r"^- Not measured on: .*new", text, re.MULTILINE)


def test_without_suites_the_card_says_so(project: Path, cli: Any, foreign: Callable[..., Path], tmp_path: Path) -> None:
    assert cli("import", str(foreign()), "--as", "skill", "--licence", "Mit").code == 0
    publish(project, None, TARGET, folder=tmp_path / "out", progress=Quiet())
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert "\nNot measured.\n" in card.text
    assert "Nobody has measured what this adapter does" in card.text
    assert card.data.license == "mit"


def test_the_bundled_base_is_named_as_on_the_hub(project: Path, cli: Any, foreign: Callable[..., Path]) -> None:
    from lamina.model.hub import hub_id, is_same_base

    pin = open_project(project, Quiet()).base.pin
    assert hub_id(pin) is None
    bundled = pin.model_copy(update={"name": "smollm2-135m", "source": "smollm2-135m"})
    assert hub_id(bundled) == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert is_same_base(bundled, "unsloth/smollm2-135m-instruct")
    remote = pin.model_copy(update={"name": "Qwen2.5-0.5B", "source": "Qwen/Qwen2.5-0.5B"})
    assert hub_id(remote) == "Qwen/Qwen2.5-0.5B"
    assert not is_same_base(remote, "Qwen/Qwen2.5-0.5B-Instruct")


@pytest.mark.parametrize("target", ["someone/fox", "hf:fox", "hf:a/b/c", "hf:some one/x", "hf:a/b..c", "hf:a/x.git"])
def test_a_target_that_is_no_repository(project: Path, target: str) -> None:
    with pytest.raises(UsageError, match="names no hub repository"):
        publish(project, None, target, folder=project / "out", progress=Quiet())


def test_a_folder_that_exists_and_a_bare_base_are_refused(project: Path) -> None:
    (project / "out").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        publish(project, None, TARGET, folder=project / "out", progress=Quiet())
    with pytest.raises(StackError, match="adds nothing to its base"):
        publish(project, None, TARGET, folder=project / "new", progress=Quiet())
    assert not (project / "new").exists()
    assert not list(project.glob(".making-*"))


def test_an_upload_sends_the_folder(stacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}

    def create(self: Any, repo_id: str, **options: Any) -> str:
        sent["created"] = (repo_id, options)
        return f"https://hub/{repo_id}"

    def upload(self: Any, *, repo_id: str, folder_path: Path, commit_message: str) -> None:
        sent["files"] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        sent["to"] = (repo_id, commit_message)

    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload)
    published = publish(stacked, None, TARGET, progress=Quiet())
    assert published.where == "https://hub/someone/fox-and-more"
    assert sent["created"] == ("someone/fox-and-more", {"private": True, "exist_ok": True})
    assert sent["to"] == ("someone/fox-and-more", f"lamina stack {published.stack}")
    publish(stacked, None, TARGET, folder=tmp_path / "out", progress=Quiet())
    assert sent["files"] == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert not list((stacked / ".lamina" / "runs").iterdir())


def test_not_logged_in(stacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(StackError, match="not logged in") as refused:
        publish(stacked, None, TARGET, progress=Quiet())
    assert "hf auth login" in refused.value.hint


def test_a_hub_that_cannot_be_reached(stacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"  # bound and not listening: refused at once
        api = huggingface_hub.HfApi(endpoint=endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: api)
        with pytest.raises(StackError, match="hf:someone/fox-and-more: not uploaded") as refused:
            publish(stacked, None, TARGET, progress=Quiet())
    assert "\n" not in refused.value.message
    assert not list((stacked / ".lamina" / "runs").iterdir())


def test_push_to_the_hub_by_flag_or_by_place(stacked: Path, cli: Any, tmp_path: Path) -> None:
    for number, line in enumerate(
        (["--to", "hf:ann/tools"], ["main", "hf:ann/tools"], ["main", "--to", "hf:ann/tools"])
    ):
        folder = tmp_path / f"out{number}"
        said = cli("push", *line, "--folder", str(folder), "--json")
        assert said.code == 0, said.err
        assert said.json["uploaded"] is False
        assert {path.name for path in folder.iterdir()} == set(said.json["files"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "0 names where a target"),
        (["a", "b", "--to", "c"], "3 names where a target"),
        (["--to", "hf:ann/tools", "--with-data"], "--with-data and --plain-http are for registries"),
        (["localhost:1/x:v1", "--folder", "out"], "--folder is for the hub"),
    ],
)
def test_flags_that_do_not_belong_together(stacked: Path, cli: Any, line: list[str], message: str) -> None:
    said = cli("push", *line)
    assert (said.code, message in said.err) == (2, True), said.err
