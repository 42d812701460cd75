"""Scorers and suites on hand-made answers."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest

from lamina.config import SCORERS as NAMES
from lamina.config import SuiteSettings
from lamina.errors import DataError, MachineError
from lamina.evaluate.extract import find_number
from lamina.evaluate.scorers import SCORERS, Rules, choice_value, find_scorer, likelihood_value
from lamina.evaluate.suites import load_suite

RULES = Rules()
SHARED = Path(__file__).parents[3] / "shared" / "data"
CALL = '{"name": "f", "arguments": {"a": 1, "b": "x"}}'


@pytest.mark.parametrize(
    ("scorer", "answer", "reference", "value"),
    [
        ("exact", " yes  sir\n", "yes sir", 1.0),
        ("exact", "Yes sir", "yes sir", 0.0),
        ("contains", "I think it is Ida Marsh.", "Ida Marsh", 1.0),
        ("contains", "Ida", "Ida Marsh", 0.0),
        ("number", "so 3 and 1,234.50 in all", "#### 1234.5", 1.0),
        ("number", "12", "-12", 0.0),
        ("number", "none", "4", 0.0),
        ("call", 'Sure: {"arguments": {"b": "x", "a": 1}, "name": "f"} done', CALL, 1.0),
        ("call", '{"name": "f", "arguments": {"a": 1.0, "b": " x"}}', CALL, 1.0),
        ("call", '{"name": "f", "arguments": {"a": true, "b": "x"}}', CALL, 0.0),
        ("call", '{"name": "f", "arguments": {"a": 1}}', CALL, 0.0),
        ("call", '{"name": "g", "arguments": {"a": 1, "b": "x"}}', CALL, 0.0),
        ("call", '{"name": "f", "arguments": {"a": 1, "b": "x"', CALL, 0.0),
        ("call", "{" * 3000, CALL, 0.0),
        ("call", "no braces", CALL, 0.0),
    ],
)
def test_scorers(scorer: str, answer: str, reference: str, value: float) -> None:
    assert score(scorer, answer, reference) == value


def score(scorer: str, answer: str, reference: str, rules: Rules = RULES) -> float:
    rule = find_scorer(scorer).score
    assert rule is not None
    return rule(answer, reference, rules)


def test_the_table_holds_what_settings_allow() -> None:
    assert sorted(scorer.name for scorer in SCORERS) == sorted(NAMES)
    assert all(scorer.source for scorer in SCORERS)
    assert {scorer.name for scorer in SCORERS if scorer.run == "answer" and scorer.score is None} == {"judged"}
    assert all(scorer.score is None for scorer in SCORERS if scorer.run != "answer")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", 72.0),
        ("5 + 5 = 10\n#### 1,234", 1234.0),
        ("A: 18", 18.0),
        ("#### 7\nas 3 of 9", 7.0),
        ("#### $5.50", 5.5),
        ("#### -3", -3.0),
        ("first 3, then .5", 0.5),
        ("none", None),
    ],
)
def test_numbers_stand_behind_the_mark_or_last(text: str, number: float | None) -> None:
    assert find_number(text) == number


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("card_arrival", 1.0),
        ("It is Card Arrival.", 1.0),
        ("not lost card but card arrival", 1.0),
        ("card", 0.0),
        ("discarded", 0.0),
        ("lost-card", 0.0),
    ],
)
def test_labels_are_whole_words_and_the_longest_counts(answer: str, value: float) -> None:
    rules = Rules(labels=("card", "card_arrival", "lost_card"))
    assert score("label", answer, "card_arrival", rules) == value


def test_a_pattern_takes_its_first_group() -> None:
    rules = Rules(pattern=r"answer is \((\w)\)")
    assert score("regex", "the answer is (B), not (C)", "B", rules) == 1.0
    assert score("regex", "the answer is (C)", "the answer is (C)", rules) == 1.0
    assert score("regex", "B", "B", rules) == 0.0


def test_nearness_is_what_the_packages_compute() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    said, meant = "the cat sat on a mat today", "the cat sat on the mat"
    assert score("bleu", said, meant) == pytest.approx(
        sacrebleu.sentence_bleu(said, [meant], use_effective_order=True).score / 100
    )
    assert score("chrf", said, meant) == pytest.approx(sacrebleu.sentence_chrf(said, [meant]).score / 100)
    rouge = scorer.RougeScorer(["rougeL"], use_stemmer=True).score(meant, said)["rougeL"].fmeasure
    assert score("rouge", said, meant) == pytest.approx(rouge)
    assert [score(name, meant, meant) for name in ("bleu", "chrf", "rouge")] == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge"])
def test_a_missing_package_is_named_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    with pytest.raises(MachineError, match=f"the scorer '{name}' needs (sacrebleu|rouge-score)") as caught:
        load_suite("s", SuiteSettings(file=tmp_path / "absent.jsonl", scorer=name))
    assert caught.value.hint == "pip install 'lamina[eval]'"


def test_choices_are_weighed_by_character() -> None:
    assert choice_value([-4.0, -6.0], [2, 6], gold=1) == 1.0
    assert choice_value([-4.0, -6.0], [2, 2], gold=1) == 0.0


def test_likelihood_is_a_geometric_mean() -> None:
    assert likelihood_value([math.log(0.25), math.log(1.0)]) == pytest.approx(0.5)


def write(tmp_path: Path, *records: object) -> Path:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_a_suite_reads_any_training_format_and_its_limit(tmp_path: Path) -> None:
    path = write(tmp_path, *({"prompt": f"q{number}", "completion": f"a{number}"} for number in range(5)))
    suite = load_suite("s", SuiteSettings(file=path, limit=3))
    assert [item.reference for item in suite.items] == ["a0", "a1", "a2"]
    whole = load_suite("s", SuiteSettings(file=path))
    assert len({suite.digest, whole.digest, load_suite("s", SuiteSettings(file=path, scorer="contains")).digest}) == 3


@pytest.mark.parametrize(
    ("record", "scorer", "message"),
    [
        ({"query": "q", "choices": ["a", "b"], "gold": 2}, "choice", "row 1: gold is 2; expected a place in 2 choices"),
        ({"query": "q", "choices": ["a", "b"], "gold": "c"}, "choice", "row 1: gold is 'c'; expected a place in 2"),
        ({"query": "q", "choices": ["a", "b"], "gold": True}, "choice", "row 1: gold is True; expected a place in 2"),
        ({"query": "q", "choices": ["a"], "gold": 0}, "choice", "row 1: has 1 choices; expected two or more"),
        (
            {"query": "q", "choices": ["a", " "], "gold": 0},
            "choice",
            "row 1: has 2 choices; expected two or more, none",
        ),
        ({"prompt": "p", "completion": "many"}, "number", "row 1: its answer 'many' holds no number"),
        ({"prompt": "p", "completion": "f(1)"}, "call", "row 1: its answer 'f(1)' is not a JSON object"),
        ({"prompt": "p"}, "instructions", "row 1: expected instruction_id_list and kwargs, lists of one length"),
        ({"text": "p"}, "instructions", "row 1: its keys are 'text'; the scorer 'instructions' expects prompt"),
        (
            {"prompt": "p", "instruction_id_list": ["a:b"], "kwargs": [{}]},
            "instructions",
            "row 1: unknown instruction 'a:b'; known: length_constraints:number_words",
        ),
        ({"question": "q", "answer": "b"}, "choice", "row 1: its keys are 'question', 'answer'; the scorer 'choice'"),
        ({"text": "words"}, "exact", "row 1: is plain text; the scorer 'exact' expects a question and an answer"),
    ],
)
def test_bad_suites_name_file_and_row(tmp_path: Path, record: object, scorer: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load_suite("s", SuiteSettings(file=write(tmp_path, record), scorer=scorer))


def test_the_right_choice_may_be_named_by_its_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"question": "q", "choices": ["no", "yes"], "answer": "yes"})
    (item,) = load_suite("s", SuiteSettings(file=path, scorer="choice")).items
    assert (item.gold, item.reference) == (1, "yes")


@pytest.mark.parametrize("key", ["id", "key", "question_id"])
def test_two_items_with_one_id_are_refused(tmp_path: Path, key: str) -> None:
    path = write(tmp_path, *({key: 7, "prompt": f"q{row}", "completion": "a"} for row in range(2)))
    with pytest.raises(DataError, match=f"row 2: has the {key} 7 of row 1"):
        load_suite("s", SuiteSettings(file=path))


def test_a_suite_without_items_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("\n")
    with pytest.raises(DataError, match="is empty; expected at least one row"):
        load_suite("s", SuiteSettings(file=path))


def test_shots_are_other_items_and_enough(tmp_path: Path) -> None:
    items = write(tmp_path, {"prompt": "q", "completion": "a"})
    shots = tmp_path / "shots.jsonl"
    shots.write_text('{"prompt": "r", "completion": "b"}\n')
    suite = load_suite("s", SuiteSettings(file=items, shots=1, shots_file=shots))
    assert suite.shots[0].reference == "b"
    assert suite.digest != load_suite("s", SuiteSettings(file=items)).digest
    with pytest.raises(DataError, match="holds 1 items; expected 2 shots"):
        load_suite("s", SuiteSettings(file=items, shots=2, shots_file=shots))
    with pytest.raises(DataError, match="is one of the shots"):
        load_suite("s", SuiteSettings(file=items, shots=1, shots_file=items))


@pytest.mark.shared
def test_gsm8k_solutions_score_as_published() -> None:
    path = SHARED / "gsm8k" / "example_model_solutions.jsonl"
    if not path.exists():
        pytest.skip("the shared data sets are not here")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    names = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")
    found = {
        name: 100 * sum(score("number", row[name]["solution"], row["ground_truth"]) for row in rows) / len(rows)
        for name in names
    }
    assert [round(found[name], 2) for name in names] == [21.68, 39.04, 34.72, 56.25]
    for row in rows:
        for name in names:
            assert score("number", row[name]["solution"], row["ground_truth"]) == row[name]["is_correct"]
