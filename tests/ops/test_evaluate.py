"""`lamina eval`: suites of every kind, overlap shown each time, nothing computed twice, tasks of the harness."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from lamina.ops import evaluate as module

Cli = Callable[..., Any]
ROWS = [{"prompt": f"what is number {number} of the rows", "completion": f"row {number}"} for number in range(30)]


@pytest.fixture
def suites(project: Path) -> Path:
    folder = project / "suites"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*ROWS[:3], ROWS[0]]))
    (folder / "rows.toml").write_text('file = "rows.jsonl"\nmax_tokens = 2\n')
    choice = {"query": "fox", "choices": ["dog", "lazy dog"], "gold": 1}
    (folder / "pick.jsonl").write_text(
        json.dumps(choice | {"id": 1}) + "\n" + json.dumps(choice | {"query": "f " * 300})
    )
    (folder / "pick.toml").write_text('file = "pick.jsonl"\nscorer = "choice"\n')
    return folder


def test_overlap_with_layers_is_shown_each_time(suites: Path, project: Path, cli: Cli) -> None:
    (project / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert cli("train", "rows.jsonl", "--as", "numbers", "--rank", "2", "--epochs", "0.1", "--accept").code == 0
    for _ in range(2):
        said = cli("eval", "--suite", "rows", "--json")
        assert said.code == 0
        assert said.json["overlap"]["rows"]["exact"] == 4
        assert "4 of 4 items are training rows" in said.err
    assert "rows: 1 items are there twice and count twice" in said.err


def test_items_that_do_not_fit_are_counted_and_nothing_runs_twice(
    suites: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = cli("eval", "--json")
    assert said.json["unscored"] == [[1, 0]]
    assert set(said.json["figures"][0][0]) == {"acc", "acc_norm"}
    assert "pick: 1 of 2 items are longer than the base's context of 256 tokens and are not scored" in said.err
    monkeypatch.setattr(module, "run_suite", None)
    assert cli("eval", "--json").json["scores"] == said.json["scores"]


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_the_harness_is_scored_once(suites: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    task = {
        "task": "foxes",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(suites / "rows.jsonl")}},
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{completion}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 2},
        "metric_list": [{"metric": "exact_match"}],
    }
    (suites / "foxes.yaml").write_text(yaml.safe_dump(task))
    said = cli("eval", "--task", "foxes", "--json")
    assert said.code == 0, said.err
    assert (said.json["suites"], said.json["items"]) == (["foxes"], [[4]])
    monkeypatch.setattr(module, "run_task", None)
    assert cli("eval", "--task", "foxes", "--json").json["scores"] == said.json["scores"]
    assert cli("eval", "--task", "foxes", "--suite", "pick").code == 2
