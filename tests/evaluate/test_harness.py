"""lm-evaluation-harness on the tiny llama: our model beside its own HF backend, on local tasks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from lamina.errors import DataError, UsageError
from lamina.evaluate.harness import load_tasks, make_model, run_task
from lamina.model.base import LoadedBase

pytest.importorskip("lm_eval")
# What the harness and its data sets warn of is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")
WORDS = ("the quick brown fox", "jumps over the", "lazy", "dog")


def write_task(folder: Path, name: str = "foxes", **settings: object) -> Path:
    folder.mkdir(exist_ok=True)
    items = folder / f"{name}.jsonl"
    records = [
        {"query": f"{WORDS[row % 4]} {row}", "choices": ["fox", "lazy dog"], "gold": row % 2} for row in range(6)
    ]
    items.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(items)}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{query}}",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | settings))
    return items


@pytest.fixture
def requests() -> list[object]:
    from lm_eval.api.instance import Instance

    pairs = [(WORDS[0], f" {end}") for end in WORDS[1:]] + [
        ("", WORDS[0]),
        (f"{WORDS[0]} ", "x"),
        ("fox " * 300, " dog"),
    ]
    return [Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)]


def test_it_answers_as_the_hf_backend_does(
    llama_base: LoadedBase, base_folders: dict[str, Path], requests: list[object]
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    theirs = HFLM(pretrained=str(base_folders["llama"]), dtype="float32", batch_size=2, device="cpu")
    ours = make_model(llama_base)
    for own, other in zip(ours.loglikelihood(requests), theirs.loglikelihood(requests, disable_tqdm=True), strict=True):
        assert own[0] == pytest.approx(other[0], abs=1e-3)
        assert own[1] == other[1]
    assert ours.cut == 1
    texts = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in (WORDS[0], "fox " * 300)]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(
        theirs.loglikelihood_rolling(texts, disable_tqdm=True), abs=5e-3
    )
    settings = {"until": ["o"], "max_gen_toks": 6, "do_sample": False}
    asked = [Instance("generate_until", {}, (text, settings), 0) for text in WORDS]
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_sampled_answers_are_refused(llama_base: LoadedBase) -> None:
    from lm_eval.api.instance import Instance

    asked = [Instance("generate_until", {}, ("a", {"do_sample": True, "temperature": 0.5}), 0)]
    with pytest.raises(UsageError, match="the task samples its answers"):
        make_model(llama_base).generate_until(asked)


def test_a_task_of_ones_own_gives_a_score(llama_base: LoadedBase, tmp_path: Path) -> None:
    items = write_task(tmp_path / "suites")
    (task,) = load_tasks("foxes", tmp_path / "suites")
    score, cut = run_task(llama_base, task, lambda amount, detail="": None)
    assert (score.suite, score.n, cut) == ("foxes", 6, 0)
    assert score.mean == score.figures["acc_norm"]
    assert set(score.figures) == {"acc", "acc_norm"}
    items.write_text("".join(items.read_text().splitlines(keepends=True)[:3]))
    (shorter,) = load_tasks("foxes", tmp_path / "suites")
    assert shorter.digest != task.digest


def test_missing_data_and_unknown_tasks_are_told(tmp_path: Path) -> None:
    write_task(tmp_path / "suites", dataset_kwargs={"data_files": {"test": str(tmp_path / "gone.jsonl")}})
    with pytest.raises(DataError, match="task 'foxes': its data is not on this machine or does not fit it"):
        load_tasks("foxes", tmp_path / "suites")
