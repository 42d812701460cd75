"""``lamina import``: an adapter that PEFT wrote becomes a layer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lamina.model import base as base_module
from lamina.ops.project import open_project
from lamina.records import Quiet
from lamina.refs import Digest
from lamina.stack.layers import stack_digest
from lamina.stack.store import Store

TRAIN = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "1")


def write_rows(path: Path, count: int) -> None:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_suite(project: Path, name: str, **extra: object) -> None:
    write_rows(project / f"{name}.jsonl", 8)
    lines = [f"[suites.{name}]", f'file = "{name}.jsonl"', *(f"{key} = {value}" for key, value in extra.items())]
    with (project / "lamina.toml").open("a") as config:
        config.write("\n".join(["", *lines, "max_tokens = 3", ""]))


def test_an_imported_layer_answers_as_in_peft(
    project: Path,
    cli: Any,
    foreign: Callable[..., Path],
    base_folders: dict[str, Path],
    stack_logits: Any,
    peft_logits: Any,
) -> None:
    folder = foreign()
    done = cli("import", str(folder), "--as", "skill", "--json")
    assert (done.code, done.json["accepted"]) == (0, True), done.err
    ours = stack_logits(project)
    before, theirs = peft_logits(folder)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert (ours - before).abs().max() > 1e-2

    shown = cli("show", "skill", "--json").json
    assert shown["origin"] == {
        "method": "import",
        "layers": [],
        "scales": [],
        "notes": {
            "folder": "elsewhere",
            "files": {
                file: str(Digest.of_file(folder / file))
                for file in ("adapter_config.json", "adapter_model.safetensors")
            },
            "peft_type": "LORA",
            "base_model_name_or_path": str(base_folders["llama"]),
        },
    }
    assert (shown["rank"], shown["data"], shown["replay"], shown["machine"]) == (4, [], None, {})
    assert set(shown["cost"].values()) == {0}
    assert shown["parent"] == stack_digest(open_project(project, Quiet()).stack("base"))
    log = cli("log", "--json").json
    assert [move["why"] for move in log["moves"]] == ["import skill", "init"]
    assert cli("show", "skill").code == cli("log").code == 0


def test_on_other_layers_it_is_marked_as_moved_and_others_go_on_top(
    project: Path, cli: Any, foreign: Callable[..., Path]
) -> None:
    write_rows(project / "fox.jsonl", 40)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    assert cli("import", str(foreign()), "--as", "skill").code == 0
    stack = open_project(project, Quiet()).stack()
    assert [(entry.name, entry.moved) for entry in stack.layers] == [("fox", False), ("skill", True)]
    write_rows(project / "fox.jsonl", 50)
    assert "10 new rows" in cli("update", "fox.jsonl", *TRAIN).err
    stack = open_project(project, Quiet()).stack()
    assert [(entry.name, entry.moved) for entry in stack.layers][2:] == [("fox.2", False)]
    assert cli("eval", "--json").json["stacks"] == ["base", "+fox", "+skill", "+fox.2"]


def test_the_gate_decides_as_for_a_trained_layer(project: Path, cli: Any, foreign: Callable[..., Path]) -> None:
    add_suite(project, "skill")
    add_suite(project, "kept", guard="true")
    folder = str(foreign())
    assert cli("import", folder, "--as", "skill", "--guard", "nope").code == 2
    refused = cli("import", folder, "--as", "skill", "--json")
    assert (refused.code, refused.json["accepted"]) == (1, False)
    assert [(line["suite"], line["role"]) for line in refused.json["gate"]] == [("skill", "own"), ("kept", "guard")]
    assert cli("log", "--json").json["layers"] == []
    accepted = cli("import", folder, "--as", "skill", "--accept", "--json")
    assert "was imported before; judging it again" in accepted.err
    assert (accepted.code, accepted.json["layer"]) == (0, refused.json["layer"])
    why = cli("log", "--json").json["moves"][0]["why"]
    assert why.startswith("import skill, accepted against the gate by ")
    assert why.endswith(": own skill +0.0, guard kept +0.0")


def test_without_suites_the_base_is_not_loaded(
    project: Path, cli: Any, foreign: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign()
    monkeypatch.setattr(base_module, "load_base", lambda *_: pytest.fail("loads the base"))
    monkeypatch.setattr("lamina.ops.project.load_base", lambda *_: pytest.fail("loads the base"))
    assert cli("import", str(folder), "--as", "skill").code == 0


@pytest.mark.parametrize(
    ("readme", "flag", "expected", "said"),
    [
        ("---\nlicense: mit\n---\n# A\n", None, "mit", None),
        ("---\nlicense: mit\n---\n# A\n", "gpl-3.0", "mit", "states the licence mit; --licence gpl-3.0 is left out"),
        ("---\nlicense: other\nlicense_name: my-own\n---\n", None, "my-own", None),
        ("---\ntags: [a]\n---\n", "gpl-3.0", "gpl-3.0", None),
        ("no front matter", "gpl-3.0", "gpl-3.0", None),
        ("---\nlicense: [\n---\n", None, None, "front matter cannot be read"),
        (None, "gpl-3.0", "gpl-3.0", None),
        (None, None, None, None),
    ],
)
def test_the_licence_is_the_folders_else_the_flags(
    project: Path,
    cli: Any,
    foreign: Callable[..., Path],
    readme: str | None,
    flag: str | None,
    expected: str | None,
    said: str | None,
) -> None:
    folder = foreign()
    if readme is not None:
        (folder / "README.md").write_text(readme)
    flags = ("--licence", flag) if flag else ()
    done = cli("import", str(folder), "--as", "skill", *flags)
    assert done.code == 0, done.err
    assert cli("show", "skill", "--json").json.get("licence") == expected
    assert said is None or said in done.err


@pytest.mark.parametrize(
    ("named", "warned"),
    [
        ("meta-llama/Llama-3.2-1B", "was trained on meta-llama/Llama-3.2-1B, this base is"),
        ("someone/LLAMA0", None),
        (None, "does not say which base"),
    ],
)
def test_another_base_is_said(
    project: Path, cli: Any, foreign: Callable[..., Path], named: str | None, warned: str | None
) -> None:
    folder = foreign()
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": named}))
    done = cli("import", str(folder), "--as", "skill")
    assert done.code == 0
    assert ("warning:" in done.err) == (warned is not None)
    assert warned is None or warned in done.err


def test_what_is_refused_leaves_the_project_as_it_was(project: Path, cli: Any, foreign: Callable[..., Path]) -> None:
    store = Store.find(project)
    before = sorted(path for path in store.root.rglob("*") if path.is_file() and path.name != "lock")
    dora = cli("import", str(foreign("dora", use_dora=True)), "--as", "skill", "--json")
    assert dora.code == 1
    assert "it is DoRA" in dora.json["error"]
    wide = foreign("wide")
    missing = cli("import", str(project / "nowhere"), "--as", "skill")
    assert (missing.code, "no such folder" in missing.err) == (1, True)
    assert cli("import", str(wide), "--as", "base").code == 2
    assert sorted(path for path in store.root.rglob("*") if path.is_file() and path.name != "lock") == before


def test_the_settings_licence_is_recorded_at_training(project: Path, cli: Any) -> None:
    settings = (project / "lamina.toml").read_text()
    (project / "lamina.toml").write_text(f'licence = "apache-2.0"\n{settings}')
    write_rows(project / "fox.jsonl", 20)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    assert cli("show", "fox", "--json").json["licence"] == "apache-2.0"
