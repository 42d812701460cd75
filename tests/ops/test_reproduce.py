"""``lamina reproduce``: a layer's record is enough to get every bit of it again, or to be told why not."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lamina.ops.project import open_project
from lamina.ops.reproduce import reproduce
from lamina.records import Quiet
from lamina.stack.layers import list_layers, write_layer
from lamina.stack.lineage import list_refs
from lamina.stack.manifest import Origin
from lamina.stack.store import Store
from lamina.train import memory, passes

TRAIN = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "2", "--batch-rows", "8")


def write_rows(path: str, count: int, start: int = 0) -> None:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(start, count)]
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def grown(project: Path, cli: Callable[..., Any]) -> Path:
    """A layer, and an update of it that was trained on new rows alone, with replay."""
    write_rows("fox.jsonl", 60)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    write_rows("fox.jsonl", 100)
    assert cli("update", "fox.jsonl", *TRAIN, "--replay", "0.5").code == 0
    return project


def tamper(project: Path, name: str, **changes: Any) -> str:
    """Write a layer that is ``name`` but for ``changes`` to its record, and return its digest."""
    store = Store.find(project)
    (config,) = [layer for _, layer in list_layers(store) if layer.name == name]
    return write_layer(store, config.model_copy(update={"name": "other", **changes}))


def test_an_update_comes_out_bit_for_bit_and_no_ref_moves(grown: Path, cli: Callable[..., Any]) -> None:
    store = Store.find(grown)
    refs, layers = list_refs(store), [digest for digest, _ in list_layers(store)]
    found = cli("reproduce", "fox.2", "--json")
    assert found.code == 0, found.err
    assert (found.json["outcome"], found.json["same_machine"]) == ("identical", True)
    assert (found.json["relative"], found.json["differences"]) == (0.0, [])
    recorded, now = found.json["heldout_loss"]
    assert recorded == now
    assert (list_refs(store), [digest for digest, _ in list_layers(store)]) == (refs, layers)
    assert list((grown / ".lamina" / "runs").iterdir()) == []


def test_a_layer_whose_file_has_changed_is_refused_with_the_digest_it_needs(
    grown: Path, cli: Callable[..., Any]
) -> None:
    said = cli("reproduce", "fox")  # the file has grown since
    assert said.code == 1
    (source,) = next(layer for _, layer in list_layers(Store.find(grown)) if layer.name == "fox").data
    assert f"fox.jsonl (expected {source.digest}, found sha256:" in said.err
    write_rows("before.jsonl", 60)
    assert cli("reproduce", "fox", "--data", "before.jsonl", "--json").json["outcome"] == "identical"
    text = Path("before.jsonl").read_text()
    Path("before.jsonl").write_text(text.replace("fox 3", "fox 4", 1))
    assert cli("reproduce", "fox", "--data", "before.jsonl").code == 1
    Path("fox.jsonl").unlink()
    assert f"fox.jsonl (expected {source.digest}, not found)" in cli("reproduce", "fox").err


def test_another_seed_in_the_record_gives_a_different_layer(project: Path, cli: Callable[..., Any]) -> None:
    write_rows("fox.jsonl", 60)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    recipe = cli("show", "fox", "--json").json["recipe"]
    layer = tamper(project, "fox", recipe=recipe | {"seed": 7})
    found = cli("reproduce", layer[7:19], "--json")
    assert (found.code, found.json["outcome"], found.json["same_machine"]) == (1, "different", True)
    assert found.json["relative"] > 0.1
    assert "different, trained again on the same machine" in cli("reproduce", layer[7:19]).out


def test_the_cut_of_steps_is_recorded_and_replayed(
    project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows("fox.jsonl", 60)
    with monkeypatch.context() as scarce:
        scarce.setitem(memory._MOST_TOKENS, "cpu", 64)
        assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    (layer,) = [layer for _, layer in list_layers(Store.find(project))]
    assert layer.machine["pass_tokens"] == [[1, 64]]
    assert cli("reproduce", "fox", "--json").json["outcome"] == "identical"
    # Without the record, more memory than then gives other bits.
    forgetful = tamper(project, "fox", machine=layer.machine | {"pass_tokens": [[1, 2048]]})
    assert cli("reproduce", forgetful[7:19], "--json").json["outcome"] == "different"


def test_a_step_that_ran_out_of_memory_is_cut_the_same_way_again(
    project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows("fox.jsonl", 60)
    steps = 0

    def scarce(base: Any, rows: Any, micro: Any, parents: Any, plain: Any = passes._try_passes) -> Any:
        nonlocal steps
        steps += 1
        if steps == 4:
            micro.tokens = 40
            return None
        return plain(base, rows, micro, parents)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "_try_passes", scarce)
        assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    (layer,) = [layer for _, layer in list_layers(Store.find(project))]
    assert layer.machine["pass_tokens"] == [[1, 2048], [4, 40]]
    assert cli("reproduce", "fox", "--json").json["outcome"] == "identical"


def test_another_machine_has_a_tolerance(project: Path, cli: Callable[..., Any]) -> None:
    write_rows("fox.jsonl", 60)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN, "--seed", "1").code == 0
    (layer,) = [layer for _, layer in list_layers(Store.find(project))]
    elsewhere = layer.machine | {"cpu": "Another", "pass_tokens": [[1, 64]]}
    moved = tamper(project, "fox", machine=elsewhere)
    found = cli("reproduce", moved[7:19], "--json")
    assert (found.code, found.json["outcome"]) == (0, "within tolerance")
    assert 0 < found.json["relative"] < 0.25
    assert [line.split(":")[0] for line in found.json["differences"]] == ["cpu"]


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("import", "trained elsewhere"),
        ("squash", "`lamina squash` computed it"),
        ("realign", "`lamina rebase` made it"),
    ],
)
def test_what_was_not_trained_here_is_refused_with_the_verb_that_made_it(
    project: Path, cli: Callable[..., Any], method: str, said: str
) -> None:
    write_rows("fox.jsonl", 30)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    (digest,) = [digest for digest, _ in list_layers(Store.find(project))]
    layer = tamper(project, "fox", origin=Origin(method=method, layers=(digest,)))
    answer = cli("reproduce", layer[7:19])
    assert answer.code == 1
    assert said in answer.err
    assert digest[7:19] in answer.err


def test_a_layer_of_another_base_is_refused(project: Path, cli: Callable[..., Any]) -> None:
    write_rows("fox.jsonl", 30)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    (config,) = [layer for _, layer in list_layers(Store.find(project))]
    other = config.base.model_copy(update={"digest": "sha256:" + "0" * 64, "source": "./elsewhere"})
    layer = tamper(project, "fox", base=other)
    answer = cli("reproduce", layer[7:19])
    assert answer.code == 1
    assert "was trained on base" in answer.err
    assert "lamina init --base ./elsewhere" in answer.err


def test_replayed_rows_that_are_not_here_are_named(grown: Path, cli: Callable[..., Any]) -> None:
    store = Store.find(grown)
    below = next(layer for _, layer in list_layers(store) if layer.name == "fox")
    assert below.replay is not None
    store.blob_path(below.replay).unlink()
    answer = cli("reproduce", "fox.2")
    assert answer.code == 1
    assert "rows of layer 'fox' were replayed in training" in answer.err
    assert below.replay in answer.err


def test_a_stopped_reproduction_goes_on(grown: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(Quiet):
        left = 3

        def stage(self, label: str, *, total: float, unit: str) -> Any:
            @contextmanager
            def watch() -> Any:
                def tick(amount: float, detail: str = "") -> None:
                    Stopping.left -= detail.startswith("step")
                    if Stopping.left == 0:
                        signal.raise_signal(signal.SIGINT)

                yield tick

            return watch()

    opened = open_project(grown, Stopping())
    with pytest.raises(KeyboardInterrupt):
        reproduce(opened, "fox.2")
    assert len(list((grown / ".lamina" / "runs").iterdir())) == 1
    resumed = cli("reproduce", "fox.2", "--json")
    assert "Going on from step" in resumed.err
    assert resumed.json["outcome"] == "identical"
