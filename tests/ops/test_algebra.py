"""squash, diff and fold as typed on a tiny model: what they print, what they leave, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lamina.lora.adapter import combine, load_adapter
from lamina.stack.layers import read_layer, read_stack
from lamina.stack.lineage import get_ref, history
from lamina.stack.seen import read_seen
from lamina.stack.store import Store

TRAIN = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "1")


def write_rows(path: Path, start: int, count: int) -> None:
    rows = [
        {"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(start, start + count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def two_layers(project: Path, cli: Callable[..., Any]) -> Path:
    """A project whose main holds layers one and two."""
    for place, name in enumerate(("one", "two")):
        write_rows(project / f"{name}.jsonl", 40 * place, 40)
        assert cli("train", f"{name}.jsonl", "--as", name, *TRAIN).code == 0
    return project


def test_an_exact_squash_changes_nothing_but_the_count(two_layers: Path, cli: Callable[..., Any]) -> None:
    store = Store.find(two_layers)
    old = read_stack(store, get_ref(store, "main") or "")
    said = cli("squash", "--as", "both", "--json")
    assert said.code == 0, said.err
    record = said.json
    assert record["rank"] == [8, 8]
    assert record["relative_error"] == 0.0
    assert record["logit_drift"]["max_error"] < 1e-5
    assert record["heldout_loss"][0] == pytest.approx(record["heldout_loss"][1], abs=1e-6)
    new = read_stack(store, get_ref(store, "main") or "")
    assert [entry.name for entry in new.layers] == ["both"]
    layer = read_layer(store, new.layers[0].layer)
    parts = [read_layer(store, entry.layer) for entry in old.layers]
    assert layer.origin is not None
    assert (layer.origin.method, layer.origin.layers) == ("squash", tuple(entry.layer for entry in old.layers))
    assert layer.parent == parts[0].parent
    assert layer.cost.tokens == sum(part.cost.tokens for part in parts)
    assert layer.heldout_loss_after < layer.heldout_loss_before  # type: ignore[operator]
    whole = combine([load_adapter(store.blob_path(part.weights)) for part in parts])
    found = load_adapter(store.blob_path(layer.weights))
    assert all(found[path].A.equal(whole[path].A) and found[path].B.equal(whole[path].B) for path in whole)
    seen = [{(row.row, row.prompt, row.heldout) for row in read_seen(store, each)} for each in (*parts, layer)]
    assert seen[2] == seen[0] | seen[1]
    assert len(seen[2]) == 80
    for kind in ("replay", "heldout"):
        blobs = [getattr(each, kind) for each in (*parts, layer)]
        first, second, joined = (set(store.read_bytes(blob).splitlines()) for blob in blobs)
        assert joined == first | second
    assert history(store, "main")[0].why == "squash both"
    assert cli("chat", "hello", "--max-tokens", "2", "--json").code == 0


def test_a_smaller_squash_says_what_it_lost(two_layers: Path, cli: Callable[..., Any]) -> None:
    said = cli("squash", "--rank", "2")
    assert said.code == 0, said.err
    assert "base+one+two -> base+squashed" in said.err
    assert "rank 8 -> 2, relative error " in said.err
    assert "held-out loss" in said.err
    assert "same choice" in said.err
    (layer,) = cli("log", "--json").json["layers"]
    notes = cli("show", "squashed", "--json").json["origin"]["notes"]
    assert notes["rank"] == 2
    assert 0.0 < notes["relative_error"] < 1.0
    assert layer["name"] == "squashed"


def test_only_the_top_can_be_squashed(two_layers: Path, cli: Callable[..., Any]) -> None:
    refused = cli("squash", "--from", "two")
    assert refused.code == 2
    assert "1 layers to squash" in refused.err
    said = cli("squash", "--from", "two", "--energy", "0.9", "--as", "less", "--json")
    assert said.code == 0, said.err
    names = [layer["name"] for layer in cli("log", "--json").json["layers"]]
    assert names == ["one", "less"]


def test_a_stack_that_the_branch_does_not_hold_leaves_it_alone(two_layers: Path, cli: Callable[..., Any]) -> None:
    store = Store.find(two_layers)
    held = get_ref(store, "main")
    said = cli("squash", "base+one+two:0.5", "--as", "half", "--json")
    assert said.code == 0, said.err
    assert said.json["branch"] is None
    assert get_ref(store, "main") == held
    assert read_layer(store, said.json["layer"]).origin.scales == (1.0, 0.5)  # type: ignore[union-attr]
    assert said.json["logit_drift"]["max_error"] < 1e-5  # scales are in the new layer


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--rank", "0"), "--rank 0: expected at least 1"),
        (("--energy", "1.5"), "--energy 1.5: expected a share"),
        (("--rank", "2", "--energy", "0.5"), "--rank and --energy: expected one of them"),
        (("--as", "base"), "'base' always means the bare base"),
    ],
)
def test_squash_flags_that_make_no_sense(
    project: Path, cli: Callable[..., Any], flags: tuple[str, ...], problem: str
) -> None:
    refused = cli("squash", *flags)
    assert refused.code == 2
    assert problem in refused.err


def test_diff_of_stacks_and_of_layers(two_layers: Path, cli: Callable[..., Any]) -> None:
    last = cli("diff")
    assert last.code == 0, last.err
    assert last.out.splitlines()[0:2] == ["--- main~1", "+++ main"]
    assert "+ two" in last.out
    scaled = cli("diff", "main", "base+two+one:0.5", "--json").json
    assert [each["name"] for each in scaled["rescaled"]] == ["one"]
    assert len(scaled["moved"]) == 1
    assert (scaled["added"], scaled["removed"], scaled["bases"]) == ([], [], None)
    assert "no difference" in cli("diff", "main", "base+one+two").out

    layers = cli("diff", "one", "two", "--top", "3")
    assert layers.code == 0, layers.err
    assert "cosine" in layers.out
    assert "11 more maps" in layers.out
    assert max(map(len, layers.out.splitlines())) <= 80
    record = cli("diff", "one", "two", "--json").json
    assert len(record["maps"]) == 14
    assert record["maps"][0]["relative_a"] > 0.0
    assert len(record["maps"][0]["column_angles"]) == 4


def test_what_cannot_be_told_apart_is_refused(two_layers: Path, cli: Callable[..., Any]) -> None:
    mixed = cli("diff", "main", "one")
    assert mixed.code == 2
    assert "'one' is a layer; expected two stacks or two layers" in mixed.err
    alone = cli("diff", "one")
    assert (alone.code, "'one' is a layer" in alone.err) == (2, True)
    past = cli("diff", "base+one")
    assert past.code == 2
    assert "'base+one' is not a branch" in past.err
    assert cli("diff", "one", "nix").code == 1


def test_a_folded_stack_is_a_base(two_layers: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    out = two_layers / "folded"
    said = cli("fold", "--out", str(out), "--json")
    assert said.code == 0, said.err
    record = said.json
    assert record["dtype"] == "float32"
    assert record["weights_relative_error"] < 1e-5
    assert record["logit_drift"]["relative_error"] < 1e-5
    assert record["logit_drift"]["agreement"] == 1.0
    assert record["measured_on"] == "held-out rows"
    assert json.loads((out / "lamina.json").read_text())["folded"] == "base+one+two"
    assert not list(two_layers.glob(".making-*"))

    fresh = two_layers / "fresh"
    assert cli("init", str(fresh), "--base", str(out)).code == 0
    again = cli("fold", "--out", str(out))
    assert again.code == 2
    assert "exists already" in again.err


def test_a_16_bit_base_is_folded_in_16_bits(
    project: Path, cli: Callable[..., Any], base_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    half = project / "half"
    AutoModelForCausalLM.from_pretrained(base_folders["qwen2"], dtype=torch.bfloat16).save_pretrained(half)
    AutoTokenizer.from_pretrained(base_folders["qwen2"]).save_pretrained(half)
    work = project / "work"
    assert cli("init", str(work), "--base", str(half)).code == 0
    monkeypatch.chdir(work)
    write_rows(work / "one.jsonl", 0, 30)
    assert cli("train", "one.jsonl", "--as", "one", *TRAIN).code == 0
    said = cli("fold", "--out", "folded")
    assert said.code == 0, said.err
    assert "in bfloat16" in said.err
    assert "rounding took" in said.err
    before, after = load_file(half / "model.safetensors"), load_file(work / "folded" / "model.safetensors")
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    assert set(before) == set(after)
    same = {name for name in before if before[name].equal(after[name])}
    assert {name for name in before if "proj" not in name or "bias" in name} <= same
    assert len(same) < len(before)


def test_what_cannot_be_folded_is_refused(
    project: Path, cli: Callable[..., Any], base_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = cli("fold", "--out", "folded")
    assert bare.code == 2
    assert "no layers to fold" in bare.err
    work = project / "work"
    assert cli("init", str(work), "--base", str(base_folders["llama"]), "--quantise", "int8").code == 0
    monkeypatch.chdir(work)
    write_rows(work / "one.jsonl", 0, 30)
    assert cli("train", "one.jsonl", "--as", "one", *TRAIN).code == 0
    coarse = cli("fold", "--out", "folded")
    assert coarse.code == 1
    assert "is quantised (int8)" in coarse.err
    assert not (work / "folded").exists()
