"""Suites on a tiny model: what does not fit is counted, what is missing is named, every kind gives its figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lamina.config import BaseSettings, SuiteSettings
from lamina.errors import DataError, StackError
from lamina.evaluate.run import run_suite, watch_suite
from lamina.evaluate.suites import load_suite
from lamina.evaluate.watch import GuardWatch
from lamina.model.base import LoadedBase, load_base, resolve_base
from lamina.records import Quiet, Score

CHOICE = {"query": "the fox jumps over the", "choices": ["dog", "lazy dog"], "gold": 1}


def run(base: LoadedBase, tmp_path: Path, records: list[Any], **settings: Any) -> Score:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    ticks: list[float] = []
    score = run_suite(
        base, load_suite("s", SuiteSettings(file=path, **settings)), lambda amount, detail="": ticks.append(amount)
    )
    assert sum(ticks) == len(records) == len(score.values)
    return score


def test_both_accuracies_are_reported_and_one_counts(llama_base: LoadedBase, tmp_path: Path) -> None:
    per_character = run(llama_base, tmp_path, [CHOICE], scorer="choice")
    whole = run(llama_base, tmp_path, [CHOICE], scorer="choice", metric="acc")
    assert per_character.figures == whole.figures
    assert (per_character.mean, whole.mean) == (per_character.figures["acc_norm"], whole.figures["acc"])
    assert per_character.items_digest != whole.items_digest


@pytest.mark.parametrize("scorer", ["choice", "exact", "likelihood"])
def test_what_is_longer_than_the_context_is_counted(llama_base: LoadedBase, tmp_path: Path, scorer: str) -> None:
    if scorer == "choice":
        long, short = CHOICE | {"query": "fox " * 400}, CHOICE
    else:
        long, short = {"prompt": "fox " * 400, "completion": "a"}, {"prompt": "fox", "completion": "a"}
    score = run(llama_base, tmp_path, [long, short], scorer=scorer, max_tokens=4)
    assert (score.n, score.unscored) == (1, 1)
    assert math.isnan(score.values[0])
    assert score.mean == score.values[1]
    with pytest.raises(DataError, match="all 1 items are longer than the base's context of 256 tokens"):
        run(llama_base, tmp_path, [long], scorer=scorer, max_tokens=4)


def test_texts_of_any_length_have_a_perplexity(llama_base: LoadedBase, tmp_path: Path) -> None:
    score = run(llama_base, tmp_path, [{"text": "the quick brown fox " * 100}], scorer="perplexity")
    assert score.figures["byte_perplexity"] == pytest.approx(1 / score.mean)
    assert score.figures["bits_per_byte"] == pytest.approx(math.log2(score.figures["byte_perplexity"]))
    assert score.figures["token_perplexity"] > score.figures["byte_perplexity"]


def test_instructions_are_also_counted_singly(llama_base: LoadedBase, tmp_path: Path) -> None:
    item = {
        "key": 1,
        "prompt": "Say it.",
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, {"more": None}],
    }
    score = run(llama_base, tmp_path, [item], scorer="instructions", max_tokens=4)
    assert score.mean == 0.0
    assert score.figures["instruction_level"] in (0.0, 0.5)


def test_corpus_figures_stand_beside_the_mean(llama_base: LoadedBase, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    score = run(llama_base, tmp_path, [{"prompt": "a", "completion": "the fox"}], scorer="chrf", max_tokens=4)
    assert set(score.figures) == {"corpus_chrf"}


def test_shots_stand_in_front(llama_base: LoadedBase, tmp_path: Path) -> None:
    shots = tmp_path / "shots.jsonl"
    for scorer, shot, item in (
        ("choice", {"query": "one", "choices": ["two", "three"], "gold": 0}, CHOICE),
        ("likelihood", {"prompt": "one", "completion": "two"}, {"prompt": "fox", "completion": "dog"}),
    ):
        shots.write_text(json.dumps(shot) + "\n")
        bare = run(llama_base, tmp_path, [item, item], scorer=scorer)
        shown = run(llama_base, tmp_path, [item, item], scorer=scorer, shots=1, shots_file=shots)
        assert shown.items_digest != bare.items_digest
        assert shown.n == 2
        assert scorer == "choice" or shown.values != bare.values


def test_a_suite_that_needs_a_template_is_refused_without_one(base_folders: dict[str, Path], tmp_path: Path) -> None:
    base = load_base(resolve_base(BaseSettings(model=str(base_folders["gpt2"])), Quiet()))
    with pytest.raises(StackError, match="suite 's' asks through a chat template, and the base has none"):
        run(base, tmp_path, [CHOICE], scorer="choice", template="chat")
    assert run(base, tmp_path, [CHOICE], scorer="choice", template="plain").n == 1


def test_choices_can_be_asked_as_a_chat(llama_base: LoadedBase, tmp_path: Path) -> None:
    assert run(llama_base, tmp_path, [CHOICE], scorer="choice", template="chat").n == 1


def watched(
    base: LoadedBase, tmp_path: Path, before: Score | None = None, **settings: Any
) -> tuple[Score | None, Score]:
    rows = [
        {"prompt": f"fox {number}", "completion": f"dog {number % 5}", "cluster": f"t{number % 40}"}
        for number in range(200)
    ]
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = load_suite("s", SuiteSettings(file=path, max_tokens=2, **settings))
    whole = run_suite(base, suite, lambda amount, detail="": None)
    return watch_suite(base, suite, GuardWatch(before or whole), lambda amount, detail="": None), whole


@pytest.mark.parametrize("scorer", ["exact", "likelihood"])
def test_a_watched_suite_has_the_same_score(llama_base: LoadedBase, tmp_path: Path, scorer: str) -> None:
    score, whole = watched(llama_base, tmp_path, scorer=scorer)
    assert score is not None
    assert score.answers == whole.answers
    assert score.clusters == whole.clusters == tuple(f"= t{number % 40}" for number in range(200))
    assert score.values == pytest.approx(whole.values, rel=1e-5)
    assert score.nll == pytest.approx(whole.nll, rel=1e-5)
    assert score.figures == pytest.approx(whole.figures, rel=1e-5)


def test_a_watched_suite_stops_on_proven_harm(llama_base: LoadedBase, tmp_path: Path) -> None:
    _, whole = watched(llama_base, tmp_path)
    assert whole.mean == 0.0
    better = replace(whole, values=(1.0,) * 200)
    score, _ = watched(llama_base, tmp_path, better)
    assert score is None


def test_likelihoods_of_references_are_recorded_by_every_scorer(llama_base: LoadedBase, tmp_path: Path) -> None:
    row = {"prompt": "fox", "completion": "the dog"}
    written = run(llama_base, tmp_path, [row], scorer="exact", max_tokens=32)
    weighed = run(llama_base, tmp_path, [row], scorer="likelihood")
    assert written.nll[0] > 0
    assert weighed.nll == pytest.approx([-math.log(weighed.mean)])
    chosen = run(llama_base, tmp_path, [CHOICE], scorer="choice")
    assert chosen.nll[0] > 0
    text = run(llama_base, tmp_path, [{"text": "the fox"}], scorer="perplexity")
    assert math.exp(text.nll[0]) == pytest.approx(text.figures["token_perplexity"])


def test_clusters_widen_the_interval_and_must_be_names(llama_base: LoadedBase, tmp_path: Path) -> None:
    rows = [{"prompt": f"fox {number}", "completion": "dog"} for number in range(12)]
    alone = run(llama_base, tmp_path, rows, scorer="likelihood")
    joined = run(llama_base, tmp_path, [row | {"cluster": 1} for row in rows], scorer="likelihood")
    assert alone.clusters == ()
    assert (joined.low, joined.high) == (0.0, 1.0)
    assert joined.items_digest != alone.items_digest
    mixed = run(llama_base, tmp_path, [rows[0] | {"cluster": "# 1"}, rows[1]], scorer="likelihood")
    assert mixed.clusters == ("= # 1", "# 1")
    with pytest.raises(DataError, match=r"row 1: its cluster is \['a'\]; expected a name or a number"):
        run(llama_base, tmp_path, [rows[0] | {"cluster": ["a"]}], scorer="likelihood")
