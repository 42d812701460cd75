"""Whole commands on a tiny model: what a person types, what it prints, what it leaves on disk."""

from __future__ import annotations

import getpass
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from lamina.evaluate.statistics.sequential import HarmWatch
from lamina.lora.adapter import load_adapter, scale_of
from lamina.ops import train as train_module
from lamina.ops.admit import Admission
from lamina.records import Quiet
from lamina.stack.lineage import history
from lamina.stack.store import Store
from lamina.train.state import TrainState

TRAIN = ("--rank", "4", "--learning-rate", "0.02", "--epochs", "2")


def write_rows(path: Path, count: int, start: int = 0) -> Path:
    rows = [{"prompt": f"what is {number}?", "completion": f"fox {number % 7}"} for number in range(start, count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def add_suite(project: Path, name: str, rows: int, **extra: object) -> None:
    write_rows(project / f"{name}.jsonl", rows)
    lines = [f"[suites.{name}]", f'file = "{name}.jsonl"', *(f"{key} = {value}" for key, value in extra.items())]
    with (project / "lamina.toml").open("a") as config:
        config.write("\n".join(["", *lines, ""]))


def test_train_and_stack(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "fox.jsonl", 60)
    first = cli("train", "fox.jsonl", "--as", "fox", *TRAIN, "--json")
    assert first.code == 0, first.err
    assert "fox.jsonl: 60 rows (JSONL, prompt/completion)" in first.err
    before, after = first.json["heldout_loss"]
    assert after < before
    assert first.json["cost"]["steps"] > 0

    write_rows(project / "dog.jsonl", 90, start=60)
    assert cli("train", "dog.jsonl", "--as", "dog", *TRAIN).code == 0

    write_rows(project / "fox.jsonl", 75)
    known = cli("update", "fox.jsonl", *TRAIN)
    assert (
        "fox: 0 new rows, 0 changed, 0 removed, 15 duplicate, 60 known already" in known.err
    )  # the dog file held them
    log = cli("log", "--json").json
    assert [layer["name"] for layer in log["layers"]] == ["fox", "dog"]


def test_update_trains_only_new_rows_with_replay(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "fox.jsonl", 60)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN, "--json").code == 0
    again = cli("update", "fox.jsonl", "--json")
    assert (again.code, again.json["layer"], again.json["accepted"]) == (0, None, True)
    assert again.json["counts"] == {"new": 0, "known": 60} | dict.fromkeys(
        ("changed", "removed", "duplicates", "contradictions", "forgotten"), 0
    )

    write_rows(project / "fox.jsonl", 70)
    grown = cli("update", "fox.jsonl", "--rank", "4", "--epochs", "2", "--replay", "0.5", "--json")
    assert "fox: 10 new rows, 0 changed, 0 removed, 0 duplicate, 60 known already" in grown.err
    shown = cli("show", "fox.2", "--json").json
    assert shown["recipe"]["replay"] == 0.5
    assert shown["recipe_origins"] == {
        "rank": "flag",
        "epochs": "flag",
        "replay": "flag",
        "batch_rows": "data: 15 rows in 4 steps a pass",
        "learning_rate": "data: 8 steps, a short run: 15 times a full fine-tuning's 5e-05",
    }
    log = cli("log", "--json").json
    assert [layer["name"] for layer in log["layers"]] == ["fox", "fox.2"]
    assert log["layers"][1]["parent"] != log["layers"][0]["parent"]
    assert [move["why"] for move in log["moves"]] == ["train fox.2", "train fox", "init"]
    tokens = [layer["cost"]["tokens"] for layer in log["layers"]]
    assert tokens[1] < tokens[0]  # 10 rows and 5 replayed, not 70
    assert "fox.2" in cli("log").out
    assert "rank: 4  (flag)" in cli("show", "fox.2").out


def test_an_update_is_named_after_its_skill(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "fox.jsonl", 20)
    assert cli("train", "fox.jsonl", "--as", "v1.5", "--rank", "2").code == 0
    for count in (25, 30):
        write_rows(project / "fox.jsonl", count)
        assert cli("update", "fox.jsonl", "--rank", "2").code == 0
    names = [layer["name"] for layer in cli("log", "--json").json["layers"]]
    assert names == ["v1.5", "v1.5.2", "v1.5.3"]


def test_eval_and_chart(project: Path, cli: Callable[..., Any]) -> None:
    none = cli("eval")
    assert none.code == 2
    assert "no suites yet" in none.err
    write_rows(project / "fox.jsonl", 60)
    cli("train", "fox.jsonl", "--as", "fox", *TRAIN)
    heldout = cli("eval", "--json").json
    assert (heldout["stacks"], heldout["suites"]) == (["base", "+fox"], ["fox"])
    assert heldout["scores"][1][0] > heldout["scores"][0][0]
    add_suite(project, "asked", 6, max_tokens=4)
    matrix = cli("eval", "--json").json
    assert matrix["suites"] == ["asked", "fox"]
    assert matrix["transfer"]["skills"] == ["fox"]
    assert matrix["transfer"]["average_accuracy"] == matrix["scores"][1][1]
    assert matrix["transfer"]["general"] == matrix["scores"][1][0] - matrix["scores"][0][0]
    assert matrix["items"] == [[6, heldout["items"][0][0]]] * 2
    again = cli("eval", "--suite", "asked")
    assert "items/s" not in again.err  # nothing is scored twice
    assert "asked" in again.out
    assert "fox: average " in cli("eval").out
    before, after = (row[1] for row in matrix["scores"])
    (layer,) = cli("log", "--json").json["layers"]
    assert layer["effect"]["fox"] == [before, after]
    assert "loss " in cli("log").out
    charted = cli("chart", "--json").json
    folder = project / "charts"
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        *(f"{name}.{end}" for name in ("scores", "quality", "cost", "cost-staircase") for end in ("png", "svg")),
    }
    assert Path(charted["chart"]).exists()
    unknown = cli("eval", "--suite", "askd")
    assert unknown.code == 2
    assert "unknown suite 'askd'" in unknown.err


def test_the_gate_keeps_a_layer_out_until_it_is_accepted(project: Path, cli: Callable[..., Any]) -> None:
    add_suite(project, "fox", 8, max_tokens=3, scorer='"contains"')
    write_rows(project / "rows.jsonl", 30)
    weak = ("train", "rows.jsonl", "--as", "fox", "--rank", "2", "--learning-rate", "1e-6", "--json")
    refused = cli(*weak)
    assert refused.code == 1
    assert refused.json["accepted"] is False
    (line,) = refused.json["gate"]
    assert (line["passed"], line["role"], line["items"], line["margin"]) == (False, "own", 8, None)
    assert line["items_needed"].keys() == {"0.01", "0.02"}
    assert line["nll_shift"] is not None
    assert cli("log", "--json").json["layers"] == []
    candidate = refused.json["layer"]
    accepted = cli(*weak[:-1], "--accept", "--json")
    assert accepted.code == 0
    assert accepted.json["layer"] == candidate
    assert "trained like this before" in accepted.err
    log = cli("log", "--json").json
    assert [layer["digest"] for layer in log["layers"]] == [candidate]
    assert log["moves"][0]["why"] == f"train fox, accepted against the gate by {getpass.getuser()}: own fox +0.0"


def test_a_guard_is_watched(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "rows.jsonl", 30)
    unknown = cli("train", "rows.jsonl", "--as", "fox", "--guard", "nope")
    assert unknown.code == 2
    assert "--guard nope: no such suite" in unknown.err
    add_suite(project, "kept", 6, max_tokens=3, guard="true")
    trained = cli("train", "rows.jsonl", "--as", "fox", *TRAIN, "--json")
    (line,) = trained.json["gate"]
    assert (line["suite"], line["role"], line["margin"]) == ("kept", "guard", 0.02)
    assert (trained.code, line["reason"][:24]) == (1, "not shown to be no worse")  # six items prove little
    with (project / "lamina.toml").open("a") as config:
        config.write("margin = 0.9\n")
    wide = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
    assert wide.code == 0
    assert "ok   guard kept: 0.0% -> 0.0%\n     no worse: a loss of 90.0% is ruled out\n     change -39.0" in wide.err
    assert "     items that show a loss in points: " in wide.err
    assert "train:" not in unknown.err


def test_proven_harm_stops_the_scoring_of_guards(
    project: Path, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(project / "rows.jsonl", 30)
    for name in ("kept", "spared"):
        add_suite(project, name, 6, max_tokens=3, guard="true", margin=0.9)
    with monkeypatch.context() as patch:
        patch.setattr(HarmWatch, "see", lambda self, losses: True)
        stopped = cli("train", "rows.jsonl", "--as", "fox", *TRAIN, "--json")
        assert (stopped.code, stopped.json["accepted"], stopped.json["not_scored"]) == (1, False, ["spared"])
        assert stopped.json["gate"][0]["reason"].startswith("worse, proven after 6 of 6 items")
        told = cli("train", "rows.jsonl", "--as", "fox", *TRAIN)
        assert "--   spared: not scored, the layer is refused already" in told.err
        whole = cli("train", "rows.jsonl", "--as", "fox", *TRAIN, "--accept", "--json")
        assert (whole.code, whole.json["not_scored"]) == (0, [])
    assert [line["stopped_after"] for line in whole.json["gate"]] == [None, None]


def test_scores_of_earlier_versions_are_read(project: Path, cli: Callable[..., Any]) -> None:
    add_suite(project, "asked", 6, max_tokens=3)
    first = cli("eval", "--json").json
    (path,) = (project / ".lamina" / "results").glob("*/*.json")
    stored = json.loads(path.read_text())
    for later in ("nll", "clusters", "figures"):
        del stored[later]
    path.write_text(json.dumps(stored))
    again = cli("eval", "--json")
    assert "items/s" not in again.err
    assert again.json["scores"] == first["scores"]


def test_the_held_out_rows_of_a_layer_can_be_a_guard(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "fox.jsonl", 60)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    write_rows(project / "dog.jsonl", 80, start=60)
    trained = cli("train", "dog.jsonl", "--as", "dog", "--rank", "2", "--lr", "1e-6", "--guard", "fox", "--json")
    assert (trained.code, [(line["suite"], line["role"]) for line in trained.json["gate"]]) == (0, [("fox", "guard")])


def test_law_7_a_layer_stands_on_its_own_parent(project: Path, cli: Callable[..., Any]) -> None:
    for name, start in (("one", 0), ("two", 30)):
        write_rows(project / f"{name}.jsonl", start + 30, start=start)
        assert cli("train", f"{name}.jsonl", "--as", name, *TRAIN).code == 0
    alone = cli("chat", "hello", "--stack", "base+two", "--max-tokens", "3")
    assert alone.code == 1
    assert "layer 'two' was trained on stack" in alone.err
    assert "--force" in alone.err
    assert cli("chat", "hello", "--stack", "base+two", "--max-tokens", "3", "--force", "--json").code == 0
    assert cli("chat", "hello", "--stack", "base+one+two", "--max-tokens", "3", "--json").code == 0
    assert cli("chat", "hello", "--stack", "main~1", "--max-tokens", "3", "--json").json["stack"] == "main~1"


def test_a_base_whose_content_changed_is_refused(
    tmp_path: Path, tokenizer: Any, cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, base_folders: Any
) -> None:
    import shutil

    base = tmp_path / "base"
    shutil.copytree(base_folders["qwen2"], base)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert cli("init", "--base", str(base)).code == 0
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.5}))
    changed = cli("chat", "hello")
    assert changed.code == 1
    assert "its content is" in changed.err


class Interrupting(Quiet):
    """Raises what a person or the system would, after so many steps."""

    def __init__(self, steps: int, act: Callable[[], None]) -> None:
        self.steps, self.act = steps, act

    def stage(self, label: str, *, total: float, unit: str) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def watch() -> Any:
            def tick(amount: float, detail: str = "") -> None:
                if detail.startswith("step"):
                    self.steps -= 1
                    if self.steps == 0:
                        self.act()

            yield tick

        return watch()


def train_with(project: Path, progress: Quiet, **settings: Any) -> Admission:
    from lamina.config import Recipe
    from lamina.ops.project import open_project
    from lamina.ops.rows import prepare_rows, read_files

    opened = open_project(project, progress)
    recipe = Recipe(**{"rank": 4, "epochs": 3.0, "learning_rate": 1e-2} | settings)
    files, rows = read_files(opened, [project / "rows.jsonl"])
    data = prepare_rows(opened, files, rows, recipe)
    return train_module.train_layer(opened, data, name="fox", recipe=recipe, origins={})


class Noting(Quiet):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_law_6_ctrl_c_then_again_gives_the_same_bits(
    project: Path, base_folders: Any, cli: Any, tmp_path: Path
) -> None:
    import signal

    write_rows(project / "rows.jsonl", 40)
    with pytest.raises(KeyboardInterrupt):
        train_with(project, Interrupting(4, lambda: signal.raise_signal(signal.SIGINT)))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [move.why for move in history(Store.find(project), "main")] == ["init"]
    (checkpoint,) = (project / ".lamina" / "runs").glob("*/checkpoint.safetensors")
    assert checkpoint.stat().st_size > 1000
    resumed = train_with(project, Quiet()).config.weights
    assert not list((project / ".lamina" / "runs").iterdir())

    whole = tmp_path / "whole"
    assert cli("init", str(whole), "--base", str(base_folders["llama"])).code == 0
    write_rows(whole / "rows.jsonl", 40)
    assert train_with(whole, Quiet()).config.weights == resumed


def test_law_6_kill_9_then_again_gives_the_same_bits(
    project: Path, base_folders: Any, cli: Any, tmp_path: Path
) -> None:
    import subprocess
    import sys

    write_rows(project / "rows.jsonl", 40)
    code = (
        "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[2])\n"
        "import test_verbs as t; from lamina.ops import run; run._CHECKPOINT_EVERY_S = 0.0\n"
        "t.train_with(Path(sys.argv[1]), t.Interrupting(6, lambda: os.kill(os.getpid(), signal.SIGKILL)))\n"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, str(project), here], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert list((project / ".lamina" / "runs").glob("*/checkpoint.safetensors"))
    resumed = train_with(project, Quiet()).config.weights

    whole = tmp_path / "whole"
    assert cli("init", str(whole), "--base", str(base_folders["llama"])).code == 0
    write_rows(whole / "rows.jsonl", 40)
    assert train_with(whole, Quiet()).config.weights == resumed


def rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let held-out losses fall once and then rise, whatever the model; a base this small cannot learn rows by heart."""
    height = itertools.chain([3.0, 2.0], itertools.count(2.1, 0.1))
    monkeypatch.setattr("lamina.train.loop.row_losses", lambda base, rows: [next(height)] * len(rows))


OVERFITTING = {"epochs": 30.0, "heldout": 0.3, "patience": 2}


def test_a_run_stops_early_and_its_best_step_is_the_layer(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: dict[int, tuple[float, Any]] = {}
    compare = TrainState.compare

    def spy(self: TrainState, losses: Sequence[float]) -> None:
        measured[self.step] = (sum(losses), self.adapter(scale_of(4, 32.0, rslora=False)))
        compare(self, losses)

    monkeypatch.setattr(TrainState, "compare", spy)
    rise(monkeypatch)
    write_rows(project / "rows.jsonl", 60)
    said = Noting()
    stopped = train_with(project, said, **OVERFITTING).config
    (early,) = [note for note in said.notes if note.startswith("Stopped at step")]
    (kept,) = [note for note in said.notes if note.startswith("Held-out loss was best at step")]
    steps, planned = (int(number) for number in re.findall(r"\d+", early))
    best = int(re.findall(r"\d+", kept)[0])
    assert best < steps == stopped.cost.steps < planned
    assert best == min(measured, key=lambda step: measured[step][0])
    assert sum(step > best for step in measured) == stopped.recipe["patience"] == 2
    written = load_adapter(Store.find(project).blob_path(stopped.weights))
    for path, factors in measured[best][1].items():
        assert written[path].A.equal(factors.A)
        assert written[path].B.equal(factors.B)


@pytest.mark.parametrize("stop_at", [2, 15, 28])
def test_law_6_holds_with_early_stopping(
    project: Path, base_folders: Any, cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    import signal

    rise(monkeypatch)
    write_rows(project / "rows.jsonl", 60)
    with pytest.raises(KeyboardInterrupt):
        train_with(project, Interrupting(stop_at, lambda: signal.raise_signal(signal.SIGINT)), **OVERFITTING)
    resumed = train_with(project, Quiet(), **OVERFITTING).config

    whole = tmp_path / "whole"
    assert cli("init", str(whole), "--base", str(base_folders["llama"])).code == 0
    rise(monkeypatch)
    write_rows(whole / "rows.jsonl", 60)
    expected = train_with(whole, Quiet(), **OVERFITTING).config
    assert (resumed.weights, resumed.cost.steps) == (expected.weights, expected.cost.steps)
    assert resumed.heldout_loss_after == expected.heldout_loss_after


def test_choices_are_said_before_the_first_step_and_recorded(project: Path, cli: Callable[..., Any]) -> None:
    write_rows(project / "fox.jsonl", 60)
    with (project / "lamina.toml").open("a") as config:
        config.write("\n[train]\nbatch_rows = 4\n")
    trained = cli("train", "fox.jsonl", "--as", "fox", "--epochs", "1")
    assert trained.code == 0, trained.err
    before, _, _ = trained.err.partition("train: ")
    assert "learning_rate 0.00075: 14 steps, a short run: 15 times a full fine-tuning's 5e-05" in before
    assert "rank 16: " in before
    assert "batch_rows" not in before
    shown = cli("show", "fox", "--json").json
    origins = shown["recipe_origins"]
    assert (origins["epochs"], origins["batch_rows"]) == ("flag", "lamina.toml")
    assert origins["learning_rate"].startswith("data: 14 steps")
    assert origins["rank"].startswith("data: ")
    assert (shown["rank"], shown["recipe"]["epochs"], shown["recipe"]["batch_rows"]) == (16, 1.0, 4)


def test_a_run_of_chosen_values_is_found_again(project: Path, cli: Callable[..., Any]) -> None:
    add_suite(project, "fox", 8, max_tokens=3, scorer='"contains"')
    write_rows(project / "rows.jsonl", 30)
    first = cli("train", "rows.jsonl", "--as", "fox", "--lr", "1e-6", "--json")
    again = cli("train", "rows.jsonl", "--as", "fox", "--lr", "1e-6", "--json")
    assert first.json["layer"] == again.json["layer"]
    assert "trained like this before" in again.err


def test_a_layer_whose_rows_stayed_with_its_owner_works_in_every_verb(project: Path, cli: Callable[..., Any]) -> None:
    add_suite(project, "asked", 4, max_tokens=2)
    write_rows(project / "fox.jsonl", 60)
    assert cli("train", "fox.jsonl", "--as", "fox", *TRAIN).code == 0
    assert cli("eval", "--json").json["suites"] == ["asked", "fox"]
    layer, store = cli("show", "fox", "--json").json, Store(project / ".lamina")
    for rows in (layer["replay"], layer["heldout"]):
        store.blob_path(rows).unlink()
    assert cli("eval", "--json").json["suites"] == ["asked"]
    assert cli("fsck").code == 0
    assert cli("squash", "--rank", "2").code == 0
    assert cli("undo").code == 0
    write_rows(project / "fox.jsonl", 70)
    grown = cli("update", "fox.jsonl", *TRAIN, "--json")  # knows the old rows by their hashes
    assert (grown.code, "10 new rows, 0 changed, 0 removed, 0 duplicate, 60 known already" in grown.err) == (0, True), (
        grown.err
    )
