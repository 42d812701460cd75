"""Scorers and suites on hand-made answers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from lamina.config import SuiteSettings
from lamina.errors import DataError
from lamina.evaluate.scorers import ANSWER_SCORERS, choice_value, likelihood_value
from lamina.evaluate.suites import load_suite

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
    assert ANSWER_SCORERS[scorer](answer, reference) == value


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
        ({"question": "q", "answer": "b"}, "choice", "row 1: its keys are 'question', 'answer'; the scorer 'choice'"),
        ({"text": "words"}, "exact", "row 1: is plain text; the scorer 'exact' expects a question and an answer"),
    ],
)
def test_bad_suites_name_file_and_row(tmp_path: Path, record: object, scorer: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        load_suite("s", SuiteSettings(file=write(tmp_path, record), scorer=scorer))
