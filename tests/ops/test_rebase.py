"""``lamina rebase``: what algebra keeps exact is carried; what is measured takes the cheapest step that will do."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lamina.cli.main import run_command
from lamina.config import BaseSettings
from lamina.data.read import read_rows
from lamina.data.render import Renderer
from lamina.infer.generate import greedy_answers
from lamina.ops import carry as carry_module
from lamina.ops import place as place_module
from lamina.ops import rebase as rebase_module
from lamina.ops.measure import find_yardstick, nats_per_byte
from lamina.ops.project import Project, open_project
from lamina.records import Conversation, Message, Quiet
from lamina.stack.layers import list_layers, read_layer, read_stack
from lamina.stack.lineage import get_ref, history, list_refs
from lamina.stack.store import Store
from lamina.train.passes import mean_loss

TRAIN = ("--rank", "8", "--learning-rate", "0.01", "--epochs", "12", "--batch-rows", "8", "--replay", "0.3")


def write_rows(path: str, count: int, word: str) -> None:
    rows = [{"prompt": f"what is {word} {number}?", "completion": f"{word} {number % 3}"} for number in range(count)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def train(cli: Callable[..., Any], name: str, *flags: str, count: int = 60) -> None:
    write_rows(f"{name}.jsonl", count, name)
    trained = cli("train", f"{name}.jsonl", "--as", name, *TRAIN, *flags)
    assert trained.code == 0, trained.err


@pytest.fixture(scope="module")
def trained_pair(tmp_path_factory: pytest.TempPathFactory, base_folders: dict[str, Path]) -> Path:
    """A project with a stack of two layers, trained once for all tests of this file."""
    folder = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_command(["init", "--base", str(base_folders["llama"])]) == 0
        for name in ("fox", "dog"):
            write_rows(f"{name}.jsonl", 60, name)
            assert run_command(["train", f"{name}.jsonl", "--as", name, *TRAIN]) == 0
    return folder


@pytest.fixture
def two(trained_pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that project, which is also the current folder."""
    shutil.copytree(trained_pair, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logits(folder: Path, stack: str = "main") -> torch.Tensor:
    project = open_project(folder, Quiet())
    base = project.activate(project.stack(stack))
    row = Renderer(base.tokenizer, base.template).row(
        Conversation((Message("user", "what is fox 3?"), Message("assistant", "fox 3"))), max_length=base.context
    )
    states, _ = base.last_states([row])
    return base.head.logits(states)


@pytest.fixture
def perturb(base_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[float], Path]:
    """Return a function that makes a newer version of the tiny llama: every weight moved by a share of its spread."""

    def make(share: float) -> Path:
        folder = tmp_path_factory.mktemp("newer")
        shutil.copytree(base_folders["llama"], folder, dirs_exist_ok=True)
        weights = load_file(folder / "model.safetensors")
        draw = torch.Generator().manual_seed(5)
        for name, weight in weights.items():
            if weight.dim() == 2:
                weights[name] = weight + share * weight.std() * torch.randn(weight.shape, generator=draw)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


def test_another_order_is_carried_with_equal_logits(two: Path, cli: Callable[..., Any]) -> None:
    before, was = logits(two), get_ref(Store.find(two), "main")
    planned = cli("rebase", "--order", "dog,fox", "--dry-run", "--json").json
    assert [(layer["name"], layer["exact"]) for layer in planned["layers"]] == [("dog", True), ("fox", True)]
    assert get_ref(Store.find(two), "main") == was
    moved = cli("rebase", "--order", "dog,fox", "--json")
    assert moved.code == 0, moved.err
    assert [(layer["name"], layer["step"], layer["exact"]) for layer in moved.json["layers"]] == [
        ("dog", "carry", True),
        ("fox", "carry", True),
    ]
    assert moved.json["cost"]["tokens"] == 0
    torch.testing.assert_close(logits(two), before, atol=1e-5, rtol=1e-5)
    moves = history(Store.find(two), "main")
    assert (moves[0].why, moves[0].old) == ("rebase --order dog,fox", was)
    assert cli("rebase", "--order", "fox,dog", "--json").json["stack"] == was
    assert cli("rebase", "--order", "fox").code == 2


def test_one_target_is_expected(two: Path, cli: Callable[..., Any]) -> None:
    for flags in ((), ("--order", "fox,dog", "--onto", "main"), ("--onto", "main", "--quantise", "int8")):
        said = cli("rebase", *flags)
        assert said.code == 2
        assert "--base" in said.err


def test_own_layers_go_onto_another_stack(two: Path, cli: Callable[..., Any]) -> None:
    """The sum is the same in the end, so the layer that meets another one below it is carried all the same."""
    before = logits(two)
    moved = cli("rebase", "--onto", "base+dog", "--json")
    assert moved.code == 0, moved.err
    (fox,) = moved.json["layers"]
    assert (fox["name"], fox["step"], fox["exact"]) == ("fox", "carry", True)
    stack = open_project(two, Quiet()).stack()
    assert [(entry.name, entry.moved) for entry in stack.layers] == [("dog", True), ("fox", True)]
    torch.testing.assert_close(logits(two), before, atol=1e-5, rtol=1e-5)
    again = cli("rebase", "--onto", "base+dog+fox")
    assert again.code == 2
    assert "is in 'base+dog+fox' already" in again.err


def test_onto_another_sum_is_measured(two: Path, cli: Callable[..., Any]) -> None:
    store = Store.find(two)
    was = get_ref(store, "main")
    moved = cli("rebase", "--onto", "base+fox:0.5", "--json")
    (dog,) = moved.json["layers"]
    assert (dog["name"], dog["exact"], dog["measured_on"]) == ("dog", False, "held-out rows")
    assert dog["tried"][0]["step"] == "carry"
    assert dog["sufficient"] == (dog["loss"][1] <= dog["most"]) == (moved.code == 0)
    assert (get_ref(store, "main") == was) == (moved.code == 1)


def test_the_same_base_again_changes_nothing(two: Path, cli: Callable[..., Any], base_folders: Any) -> None:
    was = get_ref(Store.find(two), "main")
    assert cli("rebase", "--base", str(base_folders["llama"]), "--json").json["stack"] == was


def test_a_barely_newer_base_takes_the_layers_as_they_are(
    two: Path, cli: Callable[..., Any], perturb: Callable[[float], Path]
) -> None:
    with Path("lamina.toml").open("a") as config:
        config.write("\n# kept\n[train]\nreplay = 0.25\n")
    newer = perturb(0.01)
    was = get_ref(Store.find(two), "main")
    planned = cli("rebase", "--base", str(newer), "--dry-run", "--json").json["layers"]
    assert planned[0]["steps"] == ["carry", "realign, 8 steps", "retrain on its files"]
    assert "held-out rows" in planned[0]["measured_on"]
    moved = cli("rebase", "--base", str(newer), "--json")
    assert moved.code == 0, moved.err
    assert [layer["step"] for layer in moved.json["layers"]] == ["carry", "carry"]
    for layer in moved.json["layers"]:
        assert layer["loss"][1] <= layer["most"]
        assert layer["cost"]["trained_tokens"] == 0 < layer["cost"]["tokens"]
    text = Path("lamina.toml").read_text()
    assert str(newer) in text
    assert text.endswith("\n# kept\n[train]\nreplay = 0.25\n")
    project = open_project(two, Quiet())
    stack = project.stack()
    assert stack.base.digest == project.base.pin.digest
    before, after = (read_stack(project.store, digest) for digest in (was or "", moved.json["stack"]))
    for old, new in zip(before.layers, after.layers, strict=True):
        layer = read_layer(project.store, new.layer)
        assert layer.weights == read_layer(project.store, old.layer).weights
        assert layer.origin is not None
        assert (layer.origin.method, layer.origin.layers, new.moved) == ("carry", (old.layer,), False)
    assert history(project.store, "main")[0].old == was
    assert cli("chat", "what is fox 3?", "--max-tokens", "3", "--json").code == 0
    assert "`lamina rebase` made it" in cli("reproduce", stack.layers[0].layer[7:19]).err


def test_a_newer_base_that_needs_it_gets_a_realigned_layer(
    two: Path, cli: Callable[..., Any], perturb: Callable[[float], Path]
) -> None:
    moved = cli("rebase", "--base", str(perturb(0.5)), "--json")
    assert moved.code == 0, moved.err
    dog = moved.json["layers"][1]
    carried, realigned = dog["tried"]
    assert (carried["step"], realigned["step"], dog["step"]) == ("carry", "realign", "realign")
    assert realigned["loss"] <= dog["most"] < carried["loss"]
    assert "sampled rows" in realigned["rows"]
    store = Store.find(two)
    layer, old = read_layer(store, dog["layer"]), next(layer for _, layer in list_layers(store) if layer.name == "dog")
    assert layer.origin is not None
    assert layer.origin.method == "realign"
    assert 0 < realigned["cost"]["steps"] == layer.cost.steps < old.cost.steps / 2
    assert layer.cost.tokens > carried["cost"]["tokens"] + realigned["cost"]["tokens"]
    assert layer.heldout_loss_after is not None
    assert layer.weights != old.weights
    assert layer.recipe == old.recipe
    assert layer.rows == old.rows


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_another_family_is_trained_again(
    two: Path, cli: Callable[..., Any], base_folders: dict[str, Path], family: str
) -> None:
    Path("dog.jsonl").unlink()
    target = str(base_folders[family])
    planned = cli("rebase", "--base", target, "--dry-run", "--json").json["layers"]
    carried = [["carry", "realign, 8 steps"], ["carry", "realign, 12 steps"]] if family == "qwen2" else [[], []]
    assert planned[0]["steps"] == [*carried[0], "retrain on its files"]
    assert planned[1]["steps"] == [*carried[1], "retrain on its sample"]
    moved = cli("rebase", "--base", target, "--accept", "--json")
    assert moved.code == 0, moved.err
    fox, dog = moved.json["layers"]
    assert "retrain" in [attempt["step"] for attempt in fox["tried"]]
    assert fox["tried"][-1]["rows"] == "its files"
    assert "sampled rows, since its files are not here" in dog["tried"][-1]["rows"]
    project = open_project(two, Quiet())
    assert [entry.name for entry in project.stack().layers] == ["fox", "dog"]
    assert project.activate(project.stack()).pin.family == family


def test_a_refused_layer_leaves_everything_where_it_was(
    two: Path, cli: Callable[..., Any], base_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place_module, "_LEAST_OF_LOSS", -0.9)
    monkeypatch.setattr(place_module, "_MARGIN_OF_GAIN", -9.0)
    refs, text = list_refs(Store.find(two)), Path("lamina.toml").read_text()
    refused = cli("rebase", "--base", str(base_folders["gpt2"]), "--json")
    assert (refused.code, refused.json["moved"], len(refused.json["layers"])) == (1, False, 1)
    assert (list_refs(Store.find(two)), Path("lamina.toml").read_text()) == (refs, text)
    assert "run again with --accept" in cli("rebase", "--base", str(base_folders["gpt2"])).err
    accepted = cli("rebase", "--base", str(base_folders["gpt2"]), "--accept", "--json")
    assert accepted.code == 0
    assert accepted.json["layers"][0]["layer"] == refused.json["layers"][0]["layer"]
    assert "placed before" in accepted.err


class Stopping(Quiet):
    """Presses Ctrl-C at the so-manieth step of the so-manieth training."""

    def __init__(self, run: int, step: int) -> None:
        self.run, self.step, self.notes = run, step, list[str]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def stage(self, label: str, *, total: float, unit: str) -> Iterator[Any]:
        self.run -= label == "train"
        left = self.step

        def tick(amount: float, detail: str = "") -> None:
            nonlocal left
            left -= detail.startswith("step")
            if self.run == 0 and left == 0:
                signal.raise_signal(signal.SIGINT)

        yield tick


def test_a_stopped_rebase_goes_on_and_gives_the_same_weights(
    two: Path, cli: Callable[..., Any], base_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    twin = tmp_path_factory.mktemp("twin")
    shutil.copytree(two, twin, dirs_exist_ok=True)
    refs = list_refs(Store.find(two))
    settings = BaseSettings(model=str(base_folders["gpt2"]))

    def rebase(folder: Path, progress: Quiet) -> list[str]:
        project = open_project(folder, progress)
        result = rebase_module.carry_out(rebase_module.to_base(project, settings), accept=True)
        return [read_layer(project.store, layer.entry.layer).weights for layer in result.layers]

    with pytest.raises(KeyboardInterrupt):
        rebase(two, Stopping(run=2, step=5))  # in the middle of the second layer
    assert list_refs(Store.find(two)) == refs
    again = Stopping(run=0, step=0)
    resumed = rebase(two, again)
    assert any(note.startswith("fox: placed before by retrain") for note in again.notes)
    assert any(note.startswith("Going on from step") for note in again.notes)
    assert resumed == rebase(twin, Quiet())


def test_without_held_out_rows_only_what_is_exact_moves(
    two: Path, cli: Callable[..., Any], base_folders: dict[str, Path]
) -> None:
    store = Store.find(two)
    for _, layer in list_layers(store):
        assert layer.heldout is not None
        store.blob_path(layer.heldout).unlink()
    said = cli("rebase", "--base", str(base_folders["gpt2"]))
    assert said.code == 1
    assert "the held-out rows of fox, dog are not here" in said.err
    assert "--with-data" in said.err
    planned = cli("rebase", "--base", str(base_folders["gpt2"]), "--dry-run")
    assert "cannot be moved" in planned.out
    assert cli("rebase", "--order", "dog,fox").code == 0
    assert cli("rebase", "--onto", "base+fox", "--json").json["layers"][0]["exact"] is True


def test_a_layer_that_never_held_rows_out_is_measured_on_its_sample(
    project: Path, cli: Callable[..., Any], perturb: Callable[[float], Path]
) -> None:
    train(cli, "fox", count=15)
    moved = cli("rebase", "--base", str(perturb(0.01)), "--accept", "--json")
    assert moved.code == 0, moved.err
    assert moved.json["layers"][0]["measured_on"] == "sampled rows"


def test_nats_per_byte_is_the_loss_over_the_text(two: Path, cli: Callable[..., Any]) -> None:
    project: Project = open_project(two, Quiet())
    layer = read_layer(project.store, project.stack().layers[0].layer)
    yardstick = find_yardstick(project.store, layer)
    assert yardstick is not None
    base = project.activate(project.stack("base+fox"))
    renderer = Renderer(base.tokenizer, base.template)
    rows = [renderer.row(row, max_length=base.context) for row in yardstick.rows]
    whole = mean_loss(base, rows) * sum(row.trained_count for row in rows)
    text = sum(len(row.messages[-1].content.encode()) for row in yardstick.rows)
    loss, cost = nats_per_byte(base, yardstick)
    assert loss == pytest.approx(whole / text)
    assert cost.tokens == sum(len(row.ids) for row in rows)


def test_the_old_stack_answers_for_itself(two: Path, perturb: Callable[[float], Path]) -> None:
    project = open_project(two, Quiet())
    task = rebase_module.to_base(project, BaseSettings(model=str(perturb(1.0))))
    move = task.move(1, task.start)
    base = project.activate(project.stack())
    renderer = Renderer(base.tokenizer, base.template)
    (asked, *_) = read_rows(two / "fox.jsonl").rows
    (ids,) = greedy_answers(base, [renderer.prompt(asked.messages[:-1])], max_tokens=8)
    # The tiny model has not learnt to end: let something that it says be an end.
    project._loaded = dataclasses.replace(base, stop_ids=frozenset({ids[-1]}))
    task.sides.new.release()
    rows, tokens = carry_module._distil(task.sides, move, 6)
    known = {row.messages[0].content for row in read_rows(two / "fox.jsonl").rows}
    assert 0 < len(rows) <= 6
    assert tokens > len(rows)
    for row in rows:
        (ids,) = greedy_answers(project.loaded, [renderer.prompt(row.messages[:-1])], max_tokens=64)
        assert row.messages[-1].content == renderer.text(ids).strip()
        assert row.messages[0].content in known
    assert carry_module._distil(task.sides, task.move(0, task.start), 6) == ([], 0)  # nothing lies below the first
