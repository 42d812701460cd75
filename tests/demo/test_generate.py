"""The shipped data sets: the generator's own bytes, big enough, and with nothing of the test in the training rows."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any

from lamina.demo.files import data_path
from lamina.demo.generate import as_jsonl, generate
from lamina.demo.lamp import LEVELS
from lamina.demo.tools import TOOLS, UNSEEN_TOOLS, VALUES

SETS = generate()


def asked(name: str) -> set[str]:
    return {row["messages"][1]["content"] for row in SETS[name]}


def called(row: dict[str, Any]) -> dict[str, Any]:
    call: dict[str, Any] = json.loads(row["messages"][2]["content"])
    return call


def test_the_shipped_files_are_what_the_generator_writes() -> None:
    for name, rows in SETS.items():
        assert data_path(name).read_text("utf-8") == as_jsonl(rows), name


def test_sizes() -> None:
    sizes = {name: len(rows) for name, rows in SETS.items()}
    assert sizes["tools_train.jsonl"] >= 600
    assert sizes["tools_test.jsonl"] == 200
    assert sizes["general.jsonl"] == 100


def test_no_sentence_stands_in_two_sets() -> None:
    sets = ["tools_train.jsonl", "tools_test.jsonl", "tools_late_train.jsonl", "tools_late_test.jsonl"]
    sets += ["facts_train.jsonl", "facts_test.jsonl"]
    for one, other in combinations(sets, 2):
        assert not asked(one) & asked(other), (one, other)


def test_the_tools_test_holds_phrasings_and_tools_that_training_never_saw() -> None:
    trained = {called(row)["name"] for row in SETS["tools_train.jsonl"]}
    tested = [called(row)["name"] for row in SETS["tools_test.jsonl"]]
    unseen = {tool.name for tool in UNSEEN_TOOLS}
    assert trained == {tool.name for tool in TOOLS}
    assert sum(name in unseen for name in tested) == 80
    assert not trained & unseen
    for tool in TOOLS:
        for phrasing in tool.phrasings[-3:]:
            front = phrasing.partition("{")[0]
            if len(front) > 8:
                assert not any(
                    sentence.startswith(front) and called(row)["name"] == tool.name
                    for row in SETS["tools_train.jsonl"]
                    if (sentence := row["messages"][1]["content"])
                ), phrasing


def test_every_call_fits_a_signature_that_is_offered() -> None:
    for name in ("tools_train.jsonl", "tools_test.jsonl", "tools_late_train.jsonl", "tools_late_test.jsonl"):
        for row in SETS[name]:
            call = called(row)
            assert f"{call['name']}({', '.join(call['arguments'])})" in row["messages"][0]["content"].split("\n")


def test_the_lamp_needs_its_convention() -> None:
    pairs = {name: set[tuple[str, int]]() for name in ("tools_late_train.jsonl", "tools_late_test.jsonl")}
    for name, found in pairs.items():
        for row in SETS[name]:
            arguments = called(row)["arguments"]
            found.add((arguments["room"], arguments["level"]))
            assert str(arguments["level"]) not in row["messages"][1]["content"]
    train, test = pairs.values()
    assert not train & test
    assert {level for _, level in train} == {level for _, level in test} == set(LEVELS.values())
    assert {room for room, _ in train} == set(VALUES["room"])
