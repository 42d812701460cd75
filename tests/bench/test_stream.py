"""The update benchmark's rows: nothing leaks between its parts, and the counts are those that the data's notes give."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from stream import SKILLS, UPDATED, Cut, Row, read_pool, read_skills

from lamina.evaluate.extract import find_number
from lamina.evaluate.scorers import is_call

SHARED = Path(__file__).parents[3] / "shared" / "data"
CUT = Cut(rows=300, dev=40, test=60, labels=20)
# Leaves out of training what stands in the test file too: the notes count 2 rows of llms_from_scratch, 18 of snips and
# 25 of banking77. One of the 2 is a repetition within the training rows' own file, five of tools are coffee orders.
IN_BOTH = {"dialogue": 1, "reasoning": 0, "tools": 23, "classification": 25}
TESTED = {"dialogue": 108, "reasoning": 1000, "tools": 895, "classification": 3076}


@pytest.mark.shared
@pytest.mark.parametrize("name", SKILLS)
def test_pools_share_nothing(name: str) -> None:
    train, test, notes = read_pool(name, SHARED)
    keys = Counter(row.key for row in (*train, *test))
    assert keys.most_common(1)[0][1] == 1
    assert (notes["train_rows_in_test"], len(test)) == (IN_BOTH[name], TESTED[name])


@pytest.mark.shared
def test_parts_share_nothing_and_have_their_sizes() -> None:
    for name, skill in read_skills(SHARED, CUT).items():
        parts = (skill.first, skill.later, skill.dev, skill.test)
        keys = Counter(row.key for part in parts for row in part)
        assert keys.most_common(1)[0][1] == 1
        assert tuple(map(len, parts)) == (CUT.rows, CUT.added(name), CUT.dev, CUT.test)


@pytest.mark.shared
def test_a_new_class_comes_with_the_update_alone() -> None:
    skills = read_skills(SHARED, CUT)
    for name in UPDATED:
        skill = skills[name]
        assert not any(row.late for row in (*skill.first, *skill.dev))
        assert sum(row.late for row in skill.later) == len(skill.later) // 2
    assert any("SearchScreeningEvent" in row.answer for row in skills["tools"].test)
    assert {row.answer for row in skills["classification"].later if row.late}.isdisjoint(
        row.answer for row in skills["classification"].first
    )
    assert not any("/" in row.answer for row in skills["reasoning"].first)


@pytest.mark.shared
def test_answers_are_what_the_scorers_read() -> None:
    skills = read_skills(SHARED, CUT)
    assert all(is_call(row.answer) for row in (*skills["tools"].first, *skills["tools"].test))
    assert all(find_number(row.answer) is not None for row in skills["reasoning"].first)
    calculations = [row.answer.split(" = ") for row in (*skills["reasoning"].first, *skills["reasoning"].later)]
    for text, value in calculations:
        assert eval(text) == pytest.approx(float(value), abs=1e-3, rel=1e-3)  # noqa: S307  (digits and operators)


@pytest.mark.shared
def test_the_split_is_the_same_each_time() -> None:
    assert read_skills(SHARED, CUT) == read_skills(SHARED, CUT)


def test_an_update_adds_a_tenth_of_all_rows_before_it() -> None:
    cut = Cut(rows=1000, dev=0, test=0, labels=10)
    assert [cut.added(name) for name in UPDATED] == [400, 440, 484]
    assert cut.added("dialogue") == 0


def test_the_same_question_is_the_same_row() -> None:
    row = Row("", "Don't  panic?", "ok", "x")
    assert row.key == Row("math", "don't panic", "other", "y").key
    assert row.key != Row("", "dont panic", "ok", "x").key
    assert Row("", "?!", "", "").key == "?!"
    assert json.loads(row.line())["messages"][-1] == {"role": "assistant", "content": "ok"}
